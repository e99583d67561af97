/**
 * Runs the commands of README, then "Ten minutes" (infra/docs/start.md) and "Guides by job" (infra/docs/guides.md) in order in a
 * fresh clone, as a new user would: from `npm start` to own adapters and own artifacts, trained, published and rolled back. Slow
 * commands get small settings.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { blocks, commands, executedDocuments, isCheckout } from "../support/documents.ts";
import { outsideEnvironment } from "../support/outside.ts";
import { root } from "../support/project.ts";
import { smallBase } from "../support/small-base.ts";
import { freePorts } from "../support/stack.ts";
import { seededRandom } from "../support/steps.ts";

const seed = 7;
/** The documents' commands, each once, because documents share commands such as the start. */
const stranger = [...new Set(executedDocuments.flatMap(commands))];

const smallTraining = "--steps 30 --windows 200 --rank 16 --threads 1";

/** Replacements of commands that would take minutes or install packages that are there. */
const smaller: [command: string, instead: string][] = [
  ["npm test", "npm test -- --project unit test/unit/shared/sse.test.ts"],
  [
    "npm run train -- --corpus ./my-texts --out ./my-artifacts",
    `npm run train -- --corpus ./my-texts --out ./my-artifacts ${smallTraining} --model ${smallBase}`,
  ],
];
/** This timeout is long, because a published set is served only once an engine of its own has started. */
const patience = { timeout: 60_000, interval: 200 };

let clone: string;
let stack: ChildProcess;
let edge: string;
let env: NodeJS.ProcessEnv;

beforeAll(async () => {
  console.log(`seed ${seed}`);
  clone = await mkdtemp(path.join(tmpdir(), "chameleon-clone-"));
  await cloneInto(clone);
  const random = seededRandom(seed);
  const words =
    "tenant landlord lease clause premises rent notice shall within days of the a to by under agreement".split(" ");
  const text = (length: number) => Array.from({ length }, () => words[Math.floor(random() * words.length)]).join(" ");
  const write = async (file: string, length: number) => {
    await mkdir(path.dirname(path.join(clone, file)), { recursive: true });
    await writeFile(path.join(clone, file), text(length));
  };
  for (const file of ["my-text.txt", "held-back.txt"]) await write(file, 300);
  for (let i = 0; i < 12; i++) await write(`examples/${i}.txt`, 40);
  for (let i = 0; i < 40; i++) await write(`my-texts/${i}.txt`, 220);
  const [edgePort, backendPort] = await freePorts(2);
  edge = `http://127.0.0.1:${edgePort}`;
  await writeFile(path.join(clone, "chat.mjs"), here(blocks("infra/docs/start.md", "js")[0]));
  env = {
    ...outsideEnvironment(),
    MODEL_DIR: smallBase,
    WEIGHT_FORMAT: "fp32",
    EDGE_PORT: String(edgePort),
    BACKEND_PORT: String(backendPort),
  };
});
afterAll(async () => {
  if (stack?.exitCode === null) {
    const ended = once(stack, "close");
    process.kill(-stack.pid!, "SIGTERM");
    await ended;
  }
  await rm(clone, { recursive: true, force: true, maxRetries: 3 });
});

/** Copies the project's files that Git tracks or does not ignore, and links the installed packages. */
async function cloneInto(folder: string): Promise<void> {
  const args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  const { stdout } = await promisify(execFile)("git", args, { cwd: root, maxBuffer: 2 ** 26 });
  for (const file of stdout.split("\0").filter(Boolean)) {
    await cp(path.join(root, file), path.join(folder, file)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error; // The file was removed, which is not committed yet.
    });
  }
  await symlink(path.join(root, "node_modules"), path.join(folder, "node_modules"));
}

/** A command with this test's addresses, and with the small base, since the embedded one would take many minutes. */
const here = (command: string) =>
  command
    .replaceAll("http://127.0.0.1:8787", edge)
    .replaceAll("smollm2-135m:", "gpt2:")
    .replaceAll("gpu-backend/models/smollm2-135m", smallBase);

async function startStack(command: string): Promise<string> {
  stack = spawn("sh", ["-c", command], { cwd: clone, env, detached: true, stdio: ["ignore", "pipe", "ignore"] });
  for await (const line of createInterface({ input: stack.stdout! })) if (line.startsWith("ready ")) return line;
  throw new Error("it ended before it was ready");
}

/** Runs all commands in one shell, so that KEY is kept. A marker line ends each command's output with its exit code. */
async function runAll(lines: readonly string[]): Promise<{ command: string; output: string; code: number }[]> {
  const marker = "=== ended with";
  const script = lines.map((line) => `${here(line)}\necho "${marker} $?"`).join("\n");
  await writeFile(path.join(clone, "commands.sh"), script);
  const shell = spawn("sh", ["-c", "sh commands.sh 2>&1"], { cwd: clone, env, stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  shell.stdout.on("data", (text) => (output += text));
  await once(shell, "close");
  const parts = output.split(new RegExp(`${marker} (\\d+)\n`));
  return lines.map((command, i) => ({ command, output: parts[2 * i], code: Number(parts[2 * i + 1]) }));
}

describe.skipIf(!isCheckout)("README", () => {
  test("its commands lead a new user from the start to own artifacts, and back", async () => {
    const [start, ...others] = stranger;
    expect(start).toBe("npm start");
    for (const [command] of smaller) expect(stranger).toContain(command);
    expect(await startStack(start)).toBe(`ready ${edge} key sk-chameleon-local`);
    const lines = others.map((line) => smaller.find(([command]) => command === line)?.[1] ?? line);
    const served = async () => ((await (await fetch(`${edge}/readyz`)).json()) as { manifest: string }).manifest;
    const embedded = await served();
    const publishes = 1 + lines.indexOf("npm run publish -- --artifacts ./my-artifacts");
    const untilPublished = await runAll(lines.slice(0, publishes));
    await expect.poll(served, patience).not.toBe(embedded);
    const ended = [...untilPublished, ...(await runAll(lines.slice(publishes)))];
    await expect.poll(served, patience).toBe(embedded);
    for (const { command, output, code } of ended) {
      console.log(`$ ${command}\n${output.slice(-600)}`);
      expect(code, `${command}\n${output}`).toBe(0);
      if (command.startsWith("curl")) expect(JSON.parse(output).error, `${command}\n${output}`).toBeUndefined();
    }
    const outputOf = (part: string) => ended.find(({ command }) => command.includes(part))!.output;
    expect(JSON.parse(outputOf('"sources": true')).choices[0].chameleon.memories).toMatchObject([{ id: "guide" }]);
    const completion = JSON.parse(outputOf("If Tom has 5 apples"));
    expect(completion).toMatchObject({ usage: { completion_tokens: 24 } });
    expect(outputOf("chat.mjs")).toContain(completion.choices[0].text.trim());
    expect(outputOf("score")).toMatch(/mixture .* perplexity \d+% lower than the base's/);
    expect(outputOf("create legal")).toMatch(/gpt2:legal {2}12 examples {2}perplexity \d+% lower/);
    expect(JSON.parse(outputOf('"name": "desk"'))).toMatchObject({ model: "gpt2:desk", examples: 4 });
    expect(outputOf("my-artifacts --steps")).toMatch(/held-out perplexity [\d.]+ → [\d.]+, in \.\/my-artifacts/);
    expect(JSON.parse(outputOf("v1/usage"))).toMatchObject({ tenant: "acme" });
    expect(JSON.parse(outputOf('"retrieve": 1')).choices[0].chameleon.retrieved).toMatchObject([{ adapter: "office" }]);
    expect(JSON.parse(outputOf("charged for two months")).data).toHaveLength(2);
  }, 240_000);

  test("the recipe of TRAINING.md makes a model folder that serves", async () => {
    const lines = commands("gpu-backend/training/TRAINING.md").filter(
      (line) => line.includes("my-model") && /^(cp|npm run) /.test(line),
    );
    expect(lines).toHaveLength(2);
    const small = lines.map((line) => (line.startsWith("npm") ? `${line} ${smallTraining}` : line));
    const ended = await runAll([...small, "npm run -s doctor -- --model my-model"]);
    for (const { command, output, code } of ended) expect(code, `${command}\n${output}`).toBe(0);
    expect(ended[2].output).toMatch(/artifacts \d files match their hashes; \d centroids, 0 switched off/);
  });
});

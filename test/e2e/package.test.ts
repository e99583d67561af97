/** The npm packages, server and embedded base, as a stranger meets them: packed, installed in an empty folder, started, asked. */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from "vitest";
import { outsideEnvironment } from "../support/outside.ts";

const root = path.join(import.meta.dirname, "../..");
const run = promisify(execFile);

const { MODEL_DIR, WEIGHT_FORMAT, ...outside } = outsideEnvironment();
/** The embedded base is served, not that of the other tests. */
const env: NodeJS.ProcessEnv = {
  ...outside,
  // An older npm runs install scripts by itself; this one's would download CUDA.
  ONNXRUNTIME_NODE_INSTALL: "skip",
};

/** Without a registry there is nothing to install from: then these tests are skipped, and counted as such. */
const unreachable = /\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|ETIMEDOUT|ENOTCACHED)\b/;
let isOffline: boolean;

interface Packed {
  name: string;
  version: string;
  filename: string;
  size: number;
  unpackedSize: number;
  files: { path: string }[];
}

let folder: string;
let server: Packed;
let base: Packed;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "chameleon-package-"));
  const pack = ["pack", "--json", "--workspaces", "--include-workspace-root", "--pack-destination", folder];
  const packed: Packed[] = JSON.parse((await run("npm", pack, { cwd: root, env, maxBuffer: 2 ** 24 })).stdout);
  server = packed.find(({ name }) => name === "chameleon-edge")!;
  base = packed.find(({ name }) => name === "@chameleon-edge/smollm2-135m")!;
  const MB = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  for (const { filename, size, unpackedSize } of packed) {
    process.stdout.write(`${filename}: ${MB(size)}, unpacked ${MB(unpackedSize)}\n`);
  }
  await writeFile(path.join(folder, "package.json"), "{}");
  const tarballs = [base, server].map(({ filename }) => `./${filename}`);
  const install = ["install", "--prefer-offline", "--no-audit", "--no-fund", ...tarballs];
  isOffline = await run("npm", install, { cwd: folder, env }).then(
    () => false,
    (error: { stderr: string }) => {
      if (unreachable.test(error.stderr)) return true;
      throw error;
    },
  );
}, 300_000);
afterAll(() => rm(folder, { recursive: true, force: true }));

beforeEach(({ skip }) => skip(isOffline, "the npm registry is out of reach"));

const chameleon = (...args: string[]) => run("npx", ["--no-install", "chameleon", ...args], { cwd: folder, env });

test("answers a completion, and its own commands find it", async () => {
  const child = spawn("npx", ["--no-install", "chameleon", "start", "--json"], {
    cwd: folder,
    env: { ...env, EDGE_PORT: "0", BACKEND_PORT: "0" },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  child.stderr.on("data", (text) => console.error(String(text)));
  const ended = once(child, "close");
  onTestFinished(async () => {
    process.kill(-child.pid!, "SIGTERM");
    await ended;
  });
  const [line] = await once(createInterface({ input: child.stdout }), "line");
  const { edge, key } = JSON.parse(line);
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  const body = JSON.stringify({ messages: [{ role: "user", content: "What is the capital of France?" }] });
  const response = await fetch(`${edge}/v1/chat/completions`, { method: "POST", headers, body });
  expect(await response.json()).toMatchObject({
    model: "smollm2-135m:auto",
    choices: [{ message: { content: expect.stringContaining("Paris") } }],
  });
  for (const page of ["/", "/docs/api", "/openapi.json"]) expect((await fetch(edge + page)).status).toBe(200);
  // The documents site is built into the package.
  for (const page of ["/docs", "/docs/start", "/docs/reference/limits"]) {
    const served = await fetch(edge + page);
    expect([page, served.status, served.redirected]).toEqual([page, 200, false]);
  }

  const text = "Tom has 5 apples and buys 3 more, so he has 5+3=<<5+3=8>>8 apples.\n";
  await writeFile(path.join(folder, "text.txt"), text.repeat(4));
  const { stdout } = await chameleon("score", "text.txt", "--json");
  const { base, mixture } = JSON.parse(stdout);
  expect(mixture.nats).toBeLessThan(base.nats);
});

test("its commands work without a checkout, and those of developers are not there", async () => {
  expect((await chameleon("doctor")).stdout).toMatch(/^ok {4}artifacts/m);
  expect((await chameleon("bench", "--help")).stdout).toContain("Usage: chameleon bench");
  expect((await chameleon("publish", "--list")).stderr).toBe("nothing was published yet\n");
  await expect(chameleon("check")).rejects.toMatchObject({ code: 2, stderr: expect.stringContaining("no command") });
  for (const command of ["train", "eval"]) {
    await expect(chameleon(command)).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(new RegExp(`^chameleon ${command}: name the text with --corpus[^\\n]*\\n$`)),
    });
  }
  // By then it has read the corpus lock, and opened the model.
  await expect(chameleon("eval", "--corpus", "nothing.txt")).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^chameleon eval: [^\n]*nothing\.txt[^\n]*\n$/),
  });
});

/** With the `openai` SDK beside it, as its users have. */
test("types the client", async () => {
  await symlink(path.join(root, "node_modules/openai"), path.join(folder, "node_modules/openai"));
  const source = `
    import "chameleon-edge/client";
    import { chameleonOptions } from "chameleon-edge/client/ai-sdk";
    import type OpenAI from "openai";
    export const mode = (completion: OpenAI.Completion): string | undefined => completion.choices[0].chameleon?.mode;
    // @ts-expect-error -- an adapter is no number
    export const options = chameleonOptions({ adapter: 3 });
    console.log(JSON.stringify(options));`;
  await writeFile(path.join(folder, "client.mts"), source);
  const tsc = path.join(root, "node_modules/typescript/bin/tsc");
  const strict = ["--strict", "--module", "nodenext", "--target", "es2025", "--skipLibCheck", "client.mts"];
  await run(process.execPath, [tsc, ...strict], { cwd: folder });
  const { stdout } = await run(process.execPath, ["client.mjs"], { cwd: folder });
  expect(stdout).toBe('{"chameleon":{"chameleon":{"adapter":3}}}\n');
});

test("says nothing of the machine that packed it", async () => {
  const options = { cwd: folder, maxBuffer: 2 ** 28, encoding: "buffer" as const };
  const { stdout } = await run("tar", ["-xOzf", server.filename], options);
  expect(stdout.length).toBeGreaterThan(2 ** 20);
  // Latin-1 keeps every byte, those of the weights too.
  expect(stdout.toString("latin1").includes(root)).toBe(false);
});

test("holds no weights: the server's package depends on the base's, in the version that is packed", async () => {
  const { dependencies } = JSON.parse(await readFile(path.join(root, "package.json"), "utf8"));
  expect(dependencies[base.name]).toBe(base.version);
  const isWeights = ({ path: file }: { path: string }) => /\.gguf|\.safetensors$/.test(file);
  expect(server.files.filter(isWeights).map(({ path: file }) => file)).toEqual([]);
  expect(base.files.filter(isWeights).length).toBeGreaterThan(2);
});

test("is ready to be published", async () => {
  const { stdout, stderr } = await run("npm", ["publish", "--dry-run", "--json", `./${server.filename}`], {
    cwd: folder,
    env,
  });
  expect(stdout + stderr).toContain("chameleon-edge");
});

/** The bootstrap in a folder of its own, with a scripted npm: when it installs, what it runs, how it ends. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { constants, existsSync } from "node:fs";
import { appendFile, copyFile, mkdir, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { outcomeOf } from "../../support/outcome.ts";
import { root as project } from "../../support/project.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** Plays npm: writes its arguments to npm.log, then hangs or fails if NPM_DOES is set, and else installs. */
const npm = `
const fs = require("node:fs");
fs.appendFileSync("npm.log", process.argv.slice(2).join(" ") + "\\n");
if (process.env.NPM_DOES === "hang") {
  fs.writeFileSync("hanging", "");
  setInterval(() => {}, 1000);
} else if (process.env.NPM_DOES) {
  console.error(process.env.NPM_DOES);
  process.exit(1);
} else {
  fs.rmSync("node_modules", { recursive: true, force: true });
  fs.mkdirSync("node_modules");
}
`;
/** Plays `npm start`: prints its arguments and surroundings, then ends or waits, as its first argument says. */
const startFile = `
const [how, value] = process.argv.slice(2);
if (how === "exit") process.exitCode = Number(value);
else if (how === "wait") {
  process.on("SIGTERM", () => process.exit(7));
  process.once("disconnect", () => process.exit(8));
}
console.log(JSON.stringify({ arguments: process.argv.slice(2), path: process.env.PATH, telemetry: process.env.ORT_DISABLE_TELEMETRY, node: process.execPath, cwd: process.cwd() }));
`;

let root: string;
beforeEach(async () => {
  root = temporaryFolder();
  await mkdir(path.join(root, "infra"));
  await mkdir(path.join(root, "npm"));
  for (const file of ["bootstrap.mjs", "commands.mjs"])
    await copyFile(`${project}/infra/${file}`, `${root}/infra/${file}`);
  for (const name of ["start", "start-edge"]) await writeFile(path.join(root, `infra/${name}.ts`), startFile);
  await writeFile(path.join(root, "npm/npm-cli.js"), npm);
  await writeFile(path.join(root, "package-lock.json"), "{}");
  await writePackage({ dependencies: { a: "1.0.0" } });
});
const writePackage = (content: object) =>
  writeFile(path.join(root, "package.json"), JSON.stringify({ version: "1.2.3", ...content }));

function launch(args: string[], env: Record<string, string> = {}, stdin: "ignore" | number = "ignore"): ChildProcess {
  const { npm_lifecycle_event, ...inherited } = process.env;
  const child = spawn(process.execPath, [path.join(root, "infra/bootstrap.mjs"), ...args], {
    cwd: tmpdir(),
    env: { ...inherited, npm_execpath: path.join(root, "npm/npm-cli.js"), ...env },
    stdio: [stdin, "pipe", "pipe"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  return child;
}

const run = (args: string[], env: Record<string, string> = {}) => outcomeOf(launch(args, env));

async function npmCalls(): Promise<string[]> {
  const log = await readFile(path.join(root, "npm.log"), "utf8").catch(() => "");
  return log.split("\n").filter(Boolean);
}

test("installs once, development dependencies too, and says so on stderr alone", async () => {
  const first = await run(["start", "exit", "0"], { NODE_ENV: "production" });
  expect(first).toMatchObject({ code: 0, stderr: expect.stringMatching(/^installing packages.*\n$/) });
  expect(await npmCalls()).toEqual([expect.stringMatching(/^ci .*--include=dev\b/)]);
  expect(first.stdout.split("\n")).toHaveLength(2);

  expect(await run(["start", "exit", "0"])).toMatchObject({ code: 0, stderr: "" });
  expect(await npmCalls()).toHaveLength(1);
});

test.each<[string, () => Promise<void>, number]>([
  ["the lock changed", () => appendFile(path.join(root, "package-lock.json"), "\n"), 2],
  ["a dependency changed", () => writePackage({ dependencies: { a: "1.0.1" } }), 2],
  ["an override came", () => writePackage({ dependencies: { a: "1.0.0" }, overrides: { b: "1.0.0" } }), 2],
  ["node_modules is gone", () => rm(path.join(root, "node_modules"), { recursive: true }), 2],
  ["only a script changed", () => writePackage({ dependencies: { a: "1.0.0" }, scripts: { x: "y" } }), 1],
])("when %s", async (_, change, installs) => {
  await run(["start"]);
  await change();
  expect((await run(["start"])).code).toBe(0);
  expect(await npmCalls()).toHaveLength(installs);
});

test("redoes an install that failed, and shows why; in one line if the registry is out of reach", async () => {
  const failed = await run(["start"], { NPM_DOES: "npm error code EINTEGRITY" });
  expect(failed).toMatchObject({ code: 1, stdout: "" });
  expect(failed.stderr).toContain("npm error code EINTEGRITY\nchameleon: cannot install: npm ci ended with 1.");
  const { code, stderr } = await run(["start"], { NPM_DOES: "npm error code EAI_AGAIN\nnpm error and more" });
  expect(code).toBe(1);
  expect(stderr.split("\n").slice(1)).toEqual([expect.stringMatching(/^chameleon: .*out of reach \(EAI_AGAIN\)/), ""]);
  expect((await run(["start"])).code).toBe(0);
  expect(await npmCalls()).toHaveLength(3);
});

test("redoes an install that was interrupted, even for the lock that was installed before it", async () => {
  await run(["start"]);
  await writeFile(path.join(root, "package-lock.json"), "{ }");
  const child = launch(["start"], { NPM_DOES: "hang" });
  await expect.poll(() => existsSync(path.join(root, "hanging")), { timeout: 10_000 }).toBe(true);
  child.kill("SIGTERM");
  expect((await once(child, "close"))[0]).toBe(128 + 15);
  await writeFile(path.join(root, "package-lock.json"), "{}");
  expect((await run(["start"])).code).toBe(0);
  expect(await npmCalls()).toHaveLength(3);
});

test("passes on arguments, exit code, folder, and a PATH on which child tools find the same Node", async () => {
  const { code, stdout } = await run(["start", "exit", "5", "--json", "a b"]);
  expect(code).toBe(5);
  const told = JSON.parse(stdout);
  expect(told.arguments).toEqual(["exit", "5", "--json", "a b"]);
  expect(told.cwd).toBe(tmpdir());
  expect(told.telemetry).toBe("1");
  const directories = told.path.split(path.delimiter);
  expect(directories.slice(0, 2)).toEqual([path.dirname(told.node), path.join(root, "node_modules/.bin")]);
  // A command of two words has precedence over the command of its first word.
  const ofTwoWords = await run(["start", "edge", "exit", "0", "--port", "1"]);
  expect(JSON.parse(ofTwoWords.stdout).arguments).toEqual(["exit", "0", "--port", "1"]);
});

async function launchWaiting(stdin: "ignore" | number = "ignore"): Promise<ChildProcess> {
  const child = launch(["start", "wait"], {}, stdin);
  await once(createInterface({ input: child.stdout! }), "line");
  return child;
}

test.each([
  ["SIGTERM", 7],
  // No terminal sends SIGINT to the child here, so the bootstrap must forward it.
  ["SIGINT", 128 + 2],
] as const)("forwards %s, and ends as its child ends", async (signal, code) => {
  const child = await launchWaiting();
  child.kill(signal);
  expect(await once(child, "close")).toEqual([code, null]);
});

// A pseudo-terminal stands in for a user's terminal.
test.runIf(existsSync("/dev/ptmx"))("outlives SIGINT, which a terminal sends to the child as well", async () => {
  const terminal = await open("/dev/ptmx", constants.O_RDWR | constants.O_NOCTTY);
  onTestFinished(() => terminal.close());
  const child = await launchWaiting(terminal.fd);
  child.kill("SIGINT");
  child.kill("SIGTERM");
  expect(await once(child, "close")).toEqual([7, null]);
});

test("its child ends, too, if it is killed", async () => {
  const child = await launchWaiting();
  child.kill("SIGKILL");
  // The pipe closes when the last process that holds it has ended, so the child has ended, too.
  await once(child, "close");
});

test("lists its commands, and refuses others", async () => {
  expect(await run(["--help"])).toMatchObject({ code: 0, stderr: "", stdout: expect.stringContaining("\n  start ") });
  expect(await run(["--version"])).toMatchObject({ code: 0, stdout: "1.2.3\n" });
  for (const [name, problem] of [
    [[], "name a command"],
    [["stat"], 'there is no command "stat"'],
    [["toString"], 'there is no command "toString"'],
  ] as const) {
    const stderr = `chameleon: ${problem}; \`chameleon --help\` lists them.\n`;
    expect(await run([...name])).toEqual({ code: 2, stdout: "", stderr });
  }
  expect(await npmCalls()).toEqual([]);
});

/** Conventions of every command: help with an example, a version, wrong usage answered in one sentence, no stack traces. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { commandsOf } from "../../infra/commands.mjs";
import { type Outcome, outcomeOf } from "../support/outcome.ts";
import { root } from "../support/project.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const commands = Object.entries<[string, string, ...string[]]>(commandsOf(true));
/** The package's commands. Developers' commands are parsed by the same code, so they need no test of their own. */
const forUsers = Object.entries(commandsOf(false));

const folder = temporaryFolder();

/** Runs a command in an empty folder, with a model path that does not exist. */
function run([, entry, ...first]: [string, string, ...string[]], ...args: string[]): Promise<Outcome> {
  const env = { ...process.env, MODEL_DIR: `${folder}/no-model`, STATE_DIR: `${folder}/state`, NO_COLOR: "1" };
  return outcomeOf(spawn(process.execPath, [path.join(root, entry), ...first, ...args], { cwd: folder, env }));
}

test.for(forUsers)("%s: help with an example, and a wrong flag in one sentence", async ([name, command]) => {
  const [help, wrong] = await Promise.all([run(command, "--help"), run(command, "--jsno")]);
  expect(help).toMatchObject({ code: 0, stderr: "" });
  // `start backend` runs the program that its help calls `backend`.
  if (name === "start backend") name = "backend";
  expect(help.stdout).toMatch(new RegExp(`^Usage: chameleon ${name} `));
  expect(help.stdout).toMatch(new RegExp(`\\nExamples?:\\n {2}\\$ .*chameleon ${name}`));
  expect(help.stdout).toContain("--version");
  // The help describes a default path inside the checkout in words, because the path itself depends on the machine.
  expect(help.stdout.replace(/\s+/g, "")).not.toContain(root);
  if (/ --key /.test(help.stdout)) expect(help.stdout).toContain("CHAMELEON_API_KEY");
  expect(wrong).toMatchObject({ code: 2, stdout: "" });
  expect(wrong.stderr).toMatch(new RegExp(`^chameleon ${name}: unknown option '--jsno'[^\\n]*\\n$`));
  if (/ --json/.test(help.stdout)) expect(wrong.stderr).toContain("did you mean --json?");
  // The command started nothing and wrote nothing.
  expect(existsSync(`${folder}/state`)).toBe(false);
});

test.for(["check", "corpora", "deploy", "deploy:check", "fuzz", "paper"])("%s --help does no work", async (name) => {
  const help = await run(Object.fromEntries(commands)[name], "--help");
  expect(help).toMatchObject({ code: 0, stderr: "", stdout: expect.stringContaining(`Usage: chameleon ${name} `) });
  expect(help.stdout.replace(/\s+/g, "")).not.toContain(root);
});

/** [command, arguments, exit code, beginning of stderr's last line] */
const refusals: [keyof ReturnType<typeof commandsOf>, string[], number, string][] = [
  ["train", ["--version"], 0, ""],
  ["train", ["--steps", "none"], 2, "chameleon train: option '--steps <n>' argument 'none' is invalid"],
  ["train", ["--model", "nowhere", "--corpus", "nothing.txt"], 1, "chameleon train: "],
  ["start", ["--backends", "17"], 2, "chameleon start: option '--backends <n>' argument '17' is invalid"],
  ["keys", [], 2, "chameleon keys: name one of its commands: create, list, revoke, rotate, limits"],
  ["keys", ["craete", "acme"], 2, "chameleon keys: unknown command 'craete'; did you mean create?"],
  ["keys", ["limits", "acme", "--tokens-per-minute", "many"], 2, "chameleon keys: option '--tokens-per-minute"],
  ["keys", ["create", "a b"], 2, 'chameleon keys: "a b" is no tenant'],
  ["import", [], 2, "chameleon import: missing required argument 'model'"],
  ["classify", ["nothing.txt", "--labels", "a,b"], 1, "chameleon classify: nothing.txt cannot be read: "],
  ["score", ["nothing.txt"], 1, "chameleon score: nothing.txt cannot be read: "],
  ["adapters", ["create", "legal", "."], 1, "chameleon adapters: . cannot be read: it is a folder"],
  ["adapters", ["delete", "legal"], 2, "chameleon adapters: nobody can be asked here: add --yes"],
  ["keys", ["delete", "acme"], 2, "chameleon keys: nobody can be asked here: add --yes"],
  [
    "adapters",
    ["list", "--key", "кл"],
    2,
    "chameleon adapters: the API key holds a character that no header can carry",
  ],
  ["adapters", ["list", "--url", "http://127.0.0.1:9"], 1, "chameleon adapters: nothing answers at http://127.0.0.1:9"],
  [
    "train",
    ["--embedded", "--corpus", "x"],
    2,
    "chameleon train: option '--embedded' cannot be used with option '--corp",
  ],
  ["eval", ["--texts", "0"], 2, "chameleon eval: option '--texts <n>' argument '0' is invalid"],
  ["eval", ["--corpora", "nowhere"], 1, "chameleon eval: corpus king-james-bible is not in nowhere"],
  ["corpora", ["a", "b"], 2, "chameleon corpora: too many arguments"],
  ["doctor", [], 1, ""],
  ["backend", ["--backend-secrets", "x"], 2, "chameleon backend: unknown option '--backend-secrets'"],
];
test.for(refusals)("chameleon %s %j ends with %i", async ([name, args, code, sentence]) => {
  const command = Object.fromEntries(commands)[name];
  const ended = await run(command, ...args);
  const lastLine = ended.stderr.trimEnd().split("\n").at(-1)!;
  expect(lastLine.slice(0, sentence.length), ended.stderr).toBe(sentence);
  expect(ended.code, ended.stderr).toBe(code);
  expect(ended.stderr + ended.stdout).not.toMatch(/\n {4}at /);
});

test("a command whose output pipe is closed ends without a message", async () => {
  const [, entry] = Object.fromEntries(commands).doctor;
  const child = spawn(process.execPath, [path.join(root, entry), "--json"], { stdio: ["ignore", "pipe", "pipe"] });
  child.stdout.destroy();
  expect(await outcomeOf(child)).toEqual({ code: 141, stdout: "", stderr: "" });
});

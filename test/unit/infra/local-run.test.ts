/** The file by which commands find a local start: only for its user, only while the start runs, and only with addresses on loopback. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmod, chown, readdir, readFile, stat, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { claimStateFolder, type LocalRun, readLocalRun, writeLocalRun } from "../../../infra/local-run.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const { pid } = process;
const run: LocalRun = { pid, edge: "http://[::1]:1", key: "sk-own", adminKey: "sk-admin", worker: pid };

let folder: string;
let file: string;
beforeEach(() => {
  folder = temporaryFolder();
  file = path.join(folder, "run.json");
});

function read(): { run: LocalRun | null; said: string[] } {
  const said: string[] = [];
  return { run: readLocalRun(folder, (line) => said.push(line)), said };
}

test("only its user reads it, and nobody once its process is gone", async () => {
  expect(read()).toEqual({ run: null, said: [] });
  // The file exists before the start writes it, and others can read it.
  await writeFile(file, "{}", { mode: 0o644 });
  await writeLocalRun(folder, run);
  expect(read()).toEqual({ run, said: [] });
  expect((await stat(file)).mode & 0o777).toBe(0o600);

  const ended = spawnSync(process.execPath, ["--version"]);
  await writeFile(file, JSON.stringify({ ...run, pid: ended.pid }));
  expect(read()).toEqual({ run: null, said: [] });
});

const whole = JSON.stringify(run);
/** Writes a file that would be used if nothing were changed in it. */
const writeRun = (change: object = {}) => writeFile(file, JSON.stringify({ ...run, ...change }), { mode: 0o600 });

test.each<[string, () => unknown, boolean?]>([
  ["holds pid 0", () => writeRun({ pid: 0 })],
  ["holds pid -1", () => writeRun({ pid: -1 })],
  ["names an edge elsewhere", () => writeRun({ edge: "http://192.0.2.1:9399" })],
  ["names an edge that only begins like loopback", () => writeRun({ edge: "http://127.0.0.1.example.com" })],
  ["names an edge with a path", () => writeRun({ edge: "http://127.0.0.1:1/elsewhere" })],
  ["is no JSON", () => writeFile(file, "not JSON", { mode: 0o600 })],
  ...[0o640, 0o602, 0o604].map((mode): [string, () => unknown] => [
    `has mode ${mode.toString(8)}`,
    () => writeRun().then(() => chmod(file, mode)),
  ]),
  ["is a link", () => writeFile(`${file}.other`, whole, { mode: 0o600 }).then(() => symlink("run.json.other", file))],
  // Reading a named pipe would block until somebody writes to it.
  ["is a named pipe", () => spawnSync("mkfifo", ["-m", "600", file]), process.platform === "win32"],
  ["is another user's", () => writeRun().then(() => chown(file, 65534, 65534)), process.getuid?.() !== 0],
])("a file that %s is ignored, in one sentence", async (_, write, isSkipped = false) => {
  if (isSkipped) return;
  await write();
  expect(read()).toEqual({ run: null, said: [expect.stringContaining("run.json is ignored")] });
});

/** A process that runs `code` with the module's exports in scope, until its stdin ends. */
async function startProcess(code: string) {
  const module = path.join(import.meta.dirname, "../../../infra/local-run.ts");
  const script = `
    const { claimStateFolder, writeLocalRun } = await import(${JSON.stringify(module)});
    const folder = ${JSON.stringify(folder)};
    ${code}
    process.stdin.on("end", () => process.exit(0)).resume();
    console.log("ready");`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["pipe", "pipe", "inherit"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  await once(createInterface({ input: child.stdout }), "line");
  const ended = once(child, "exit");
  const by = (act: () => unknown) => () => {
    act();
    return ended;
  };
  return { pid: child.pid, end: by(() => child.stdin.end()), kill: by(() => child.kill("SIGKILL")) };
}

const writing = `await writeLocalRun(folder, { ...${whole}, pid: process.pid });`;

test("a start that ends removes its own file alone; one that was killed leaves it, and it is not used", async () => {
  const first = await startProcess(writing);
  await first.end();
  await expect(readFile(file)).rejects.toMatchObject({ code: "ENOENT" });

  const second = await startProcess(writing);
  await second.kill();
  expect(JSON.parse(await readFile(file, "utf8")).pid).toBe(second.pid);
  expect(read().run).toBeNull();

  const third = await startProcess(writing);
  await writeLocalRun(folder, run);
  await third.end();
  expect(read().run).toEqual(run);
});

test.each(["end", "kill"] as const)("a folder is refused from the beginning of a start to its %s", async (how) => {
  const start = await startProcess("claimStateFolder(folder);");
  expect(() => claimStateFolder(folder)).toThrow(`process ${start.pid} serves from ${folder}`);
  await start[how]();
  claimStateFolder(folder);
  expect(await readdir(folder)).toEqual([`start.${process.pid}.lock`, "version"]);
});

/**
 * `chameleon backup FILE` and `chameleon restore FILE`: the state folder as one archive. SIGSTOP pauses a running Worker while its files
 * are copied, so that the copy is consistent over all objects.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { chmod, cp, mkdir, mkdtemp, readdir, rename, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createCommand, runCommand } from "../gpu-backend/command-line.ts";
import { unfinishedPrefix } from "../gpu-backend/files.ts";
import { pointerName } from "../shared/artifacts/bucket.ts";
import { keyFiles } from "./admin-key.ts";
import { artifactsFolder, stateFolder } from "./local-edge.ts";
import { checkStateVersion, claimStateFolder, readLocalRun, restoringVersion, versionFile } from "./local-run.ts";

/** Parts of the state folder. The version file comes last, and says `restoringVersion` until then. */
const parts = [...Object.values(keyFiles), "kv", "r2", "objects", versionFile];
const note =
  "The archive holds tenants' documents with the keys that encrypt them, and the server's keys: keep it as you keep those.";

const commands = {
  backup: createCommand(
    "backup",
    "Write the state folder, of a running server too, to a file",
    ["chameleon backup chameleon.tar.gz"],
    `A running server pauses while its files are copied, and answers go on after that. STATE_DIR names the folder.\n${note}`,
  )
    .argument("<file>", "a new file")
    .action(backup),
  restore: createCommand(
    "restore",
    "Make a state folder of what backup wrote",
    ["STATE_DIR=restored chameleon restore chameleon.tar.gz"],
    "The folder that STATE_DIR names must hold no state yet, and no server may run there.",
  )
    .argument("<file>")
    .action(restore),
};

async function backup(file: string): Promise<void> {
  if (existsSync(file)) throw new Error(`${file} is there already; name another file`);
  const state = stateFolder();
  if (!existsSync(path.join(state, "objects"))) throw new Error(`${state} is no state folder; set STATE_DIR`);
  const run = readLocalRun(state);
  if (!run) claimStateFolder(state);
  const copy = await mkdtemp(path.join(state, `${unfinishedPrefix}backup-`));
  const unfinished = `${unfinishedPrefix}${process.pid}-${path.basename(file)}`;
  const archive = path.join(path.dirname(path.resolve(file)), unfinished);
  try {
    const pausedMs = run ? await whilePaused(run.worker, () => copyState(state, copy)) : await copyState(state, copy);
    await tar("-czf", archive, "-C", copy, ...(await readdir(copy)));
    await chmod(archive, 0o600);
    await rename(archive, file);
    process.stderr.write(`${file}: ${state}${run ? `; the server was paused for ${Math.ceil(pausedMs)} ms` : ""}\n`);
  } finally {
    await rm(copy, { recursive: true });
    await rm(archive, { force: true });
  }
}

async function copyState(state: string, copy: string): Promise<number> {
  const beganMs = performance.now();
  // The copy leaves out unfinished files, locks, and SQLite's shared memory, which SQLite rebuilds from its log.
  const filter = (file: string) => !path.basename(file).startsWith(unfinishedPrefix) && !/\.lock$|-shm$/.test(file);
  // `publish` may run at the same time, and stores a pointer last. So the pointer is copied first.
  for (const part of [path.relative(state, path.join(artifactsFolder(), pointerName)), ...parts]) {
    const from = path.join(state, part);
    if (existsSync(from)) await cp(from, path.join(copy, part), { recursive: true, force: false, filter });
  }
  return performance.now() - beganMs;
}

const stopMs = 50;

/** Pauses a process while `work` runs. A shell resumes the process when its stdin closes, even if this process is killed. */
async function whilePaused<T>(pid: number, work: () => Promise<T>): Promise<T> {
  const shell = spawn("sh", ["-c", 'kill -STOP "$0" && echo; read end; kill -CONT "$0"', String(pid)], {
    stdio: ["pipe", "pipe", "inherit"],
    detached: true,
  });
  const ended = once(shell, "exit");
  try {
    const [stopped] = await Promise.race([once(shell.stdout, "data"), ended]);
    if (!(stopped instanceof Buffer)) throw new Error(`the server's process ${pid} cannot be paused`);
    await sleep(stopMs);
    return await work();
  } finally {
    shell.stdin.end();
    await ended;
  }
}

async function restore(file: string): Promise<void> {
  const state = stateFolder();
  const held = parts.find((part) => part !== versionFile && existsSync(path.join(state, part)));
  if (held) throw new Error(`${state} holds ${held}; move it away, or set STATE_DIR to another folder`);
  await mkdir(state, { recursive: true, mode: 0o700 });
  const unpacked = await mkdtemp(path.join(state, `${unfinishedPrefix}restore-`));
  try {
    await tar("-xzf", path.resolve(file), "-C", unpacked, "--no-same-owner");
    if (!existsSync(path.join(unpacked, versionFile))) throw new Error(`${file} is no backup of a state folder`);
    checkStateVersion(unpacked);
    claimStateFolder(state);
    const objects = await checkObjects(path.join(unpacked, "objects"));
    await writeFile(path.join(state, versionFile), restoringVersion);
    for (const part of parts.filter((one) => existsSync(path.join(unpacked, one)))) {
      await rename(path.join(unpacked, part), path.join(state, part));
    }
    process.stderr.write(`${state}: ${objects} objects are whole\n`);
  } finally {
    await rm(unpacked, { recursive: true });
  }
}

/** Opening a database applies its log. Returns the number of databases. Throws an Error that names a broken one. */
async function checkObjects(folder: string): Promise<number> {
  const { DatabaseSync } = await import("node:sqlite");
  const files = (await readdir(folder, { recursive: true })).filter((name) => name.endsWith(".sqlite"));
  for (const name of files) {
    const database = new DatabaseSync(path.join(folder, name));
    try {
      const { quick_check: found } = database.prepare("PRAGMA quick_check(1)").get() as { quick_check: string };
      if (found !== "ok") throw new Error(`the object ${name} is broken: ${found}`);
    } finally {
      database.close();
    }
  }
  return files.length;
}

async function tar(...args: string[]): Promise<void> {
  const [code] = await once(spawn("tar", args, { stdio: ["ignore", "ignore", "inherit"] }), "exit");
  if (code !== 0) throw new Error(`tar ended with ${code}`);
}

const [name] = process.argv.splice(2, 1);
await runCommand(commands[name === "restore" ? "restore" : "backup"]);

/**
 * run.json in the state folder, by which other commands find a running `chameleon start`. The state folder is below the current folder,
 * where an attacker may have left a run.json with the attacker's server. So the file's owner and mode and the server's address are checked.
 */
import * as fs from "node:fs";
import path from "node:path";
import { z } from "zod";
import { writeWhole } from "../gpu-backend/files.ts";
import { isLoopback } from "../shared/loopback.ts";

const loopbackOrigin = z.string().refine((text) => {
  const url = URL.parse(text);
  return url?.protocol === "http:" && url.origin === text && isLoopback(url.hostname);
});
const runSchema = z.object({
  // 0 and negative numbers would mean process groups.
  pid: z.int().positive(),
  edge: loopbackOrigin,
  key: z.string(),
  adminKey: z.string(),
  /** Process id of the Worker. */
  worker: z.int().positive(),
});
export type LocalRun = z.infer<typeof runSchema>;

const fileIn = (stateFolder: string) => path.join(stateFolder, "run.json");

/** Writes run.json, and removes it when this process ends. */
export async function writeLocalRun(stateFolder: string, run: LocalRun): Promise<void> {
  const file = fileIn(stateFolder);
  await writeWhole(file, Buffer.from(JSON.stringify(run)), { mode: 0o600 });
  process.once("exit", () => {
    if (readLocalRun(stateFolder, () => {})?.pid === run.pid) fs.rmSync(file, { force: true });
  });
}

/**
 * Claims the state folder until this process ends, because two edges on it would each count a tenant's use. Throws an Error if another
 * start has claimed it. A start writes its lock file before it looks for others', so of two simultaneous starts at most one continues.
 */
export function claimStateFolder(stateFolder: string): void {
  fs.mkdirSync(stateFolder, { recursive: true, mode: 0o700 });
  checkStateVersion(stateFolder);
  const own = path.join(stateFolder, `start.${process.pid}.lock`);
  process.once("exit", () => fs.rmSync(own, { force: true }));
  fs.writeFileSync(own, "");
  for (const name of fs.readdirSync(stateFolder)) {
    const pid = Number(/^start\.(\d+)\.lock$/.exec(name)?.[1]);
    if (!pid || pid === process.pid) continue;
    const file = path.join(stateFolder, name);
    if (isRunning(pid)) {
      throw new Error(
        `process ${pid} serves from ${stateFolder}; end it, or set STATE_DIR to another folder (if it is no start, remove ${file})`,
      );
    }
    fs.rmSync(file, { force: true });
  }
  fs.writeFileSync(path.join(stateFolder, versionFile), `${stateVersion}\n`);
  // A killed start may have left run.json. In a container the next start has the same process id and would take that file for its own.
  fs.rmSync(fileIn(stateFolder), { force: true });
}

/** Name of the file with the version of the state folder's layout. */
export const versionFile = "version";
/** A state folder with objects but without the version file has version 1. */
const stateVersion = 2;
/** Text of the version file during a restore, and after a restore that was killed. */
export const restoringVersion = "restoring";

/** Throws an Error for another layout. This version would read such a folder as if it held no adapters and no unsettled use. */
export function checkStateVersion(stateFolder: string): void {
  const file = path.join(stateFolder, versionFile);
  const isNew = !fs.existsSync(path.join(stateFolder, "objects"));
  const text = fs.existsSync(file) ? fs.readFileSync(file, "utf8") : String(isNew ? stateVersion : 1);
  if (text.trim() === String(stateVersion)) return;
  if (text === restoringVersion) {
    throw new Error(`${stateFolder} holds a part of a backup, whose restore was stopped: remove it, and restore again`);
  }
  throw new Error(
    `${stateFolder} has the layout ${JSON.stringify(text.trim().slice(0, 20))}, and this version knows ${stateVersion}: serve it by the version that wrote it`,
  );
}

/** Returns null if no start runs here, or if run.json cannot be trusted. In the second case `warn` gets a line with the reason. */
export function readLocalRun(stateFolder: string, warn: (line: string) => void = console.error): LocalRun | null {
  const file = fileIn(stateFolder);
  try {
    const run = parsedRun(readPrivate(file));
    return isRunning(run.pid) ? run : null;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT") warn(`${file} is ignored: ${message}`);
    return null;
  }
}

/** Throws an Error that repeats nothing of `text`, because it may hold keys. */
function parsedRun(text: string): LocalRun {
  try {
    return runSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new Error("it must hold a process, a loopback address and keys", { cause });
  }
}

/** Reads a file. Throws an Error if another user owns the file or may read or write it. */
export function readPrivate(file: string): string {
  // O_NONBLOCK, because opening a named pipe would wait for a writer.
  const descriptor = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK);
  try {
    const stats = fs.fstatSync(descriptor);
    const { uid, mode } = stats;
    if (!stats.isFile()) throw new Error("it is no regular file");
    const user = process.getuid?.();
    // On Windows getuid is undefined, so owner and mode are not checked there.
    if (user !== undefined && uid !== user) throw new Error("another user owns it");
    if (user !== undefined && (mode & 0o077) !== 0) throw new Error("its mode lets other users in; it must be 0600");
    return fs.readFileSync(descriptor, "utf8");
  } finally {
    fs.closeSync(descriptor);
  }
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/**
 * run.json in the state folder, by which other commands find a running `chameleon start`: its process, the edge's address and keys. The
 * state folder is below the current folder, where an attacker may have left a run.json that makes commands send a key to the
 * attacker's server. So its owner, its mode and the address are checked.
 */
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { z } from "zod";
import { writeWhole } from "../gpu-backend/files.ts";
import { isLoopback } from "../shared/loopback.ts";

const loopbackOrigin = z.string().refine((text) => {
  const url = URL.parse(text);
  return url?.protocol === "http:" && url.origin === text && isLoopback(url.hostname);
});
const runSchema = z.object({
  // 0 and negative numbers are process groups, for which `isRunning` would be true.
  pid: z.int().positive(),
  edge: loopbackOrigin,
  /** API key for commands of this user. */
  key: z.string(),
  adminKey: z.string(),
  /** Process id of the Worker, which writes the state. */
  worker: z.int().positive(),
});
export type LocalRun = z.infer<typeof runSchema>;

const fileIn = (stateFolder: string) => path.join(stateFolder, "run.json");

/** Writes run.json, and removes it when this process ends, unless another start has replaced it. */
export async function writeLocalRun(stateFolder: string, run: LocalRun): Promise<void> {
  const file = fileIn(stateFolder);
  await writeWhole(file, Buffer.from(JSON.stringify(run)), { mode: 0o600 });
  process.once("exit", () => {
    if (readLocalRun(stateFolder, () => {})?.pid === run.pid) rmSync(file, { force: true });
  });
}

/**
 * Claims the state folder until this process ends. Two edges on one folder would each count a tenant's use. Throws an Error if another
 * start has claimed it. Each start writes its lock file before it looks for those of others, so if two start at once, at most one
 * continues.
 */
export function claimStateFolder(stateFolder: string): void {
  mkdirSync(stateFolder, { recursive: true, mode: 0o700 });
  checkStateVersion(stateFolder);
  const own = path.join(stateFolder, `start.${process.pid}.lock`);
  process.once("exit", () => rmSync(own, { force: true }));
  writeFileSync(own, "");
  for (const name of readdirSync(stateFolder)) {
    const pid = Number(/^start\.(\d+)\.lock$/.exec(name)?.[1]);
    if (!pid || pid === process.pid) continue;
    const file = path.join(stateFolder, name);
    if (isRunning(pid)) {
      throw new Error(
        `process ${pid} serves from ${stateFolder}; end it, or set STATE_DIR to another folder (if it is no start, remove ${file})`,
      );
    }
    rmSync(file, { force: true });
  }
  writeFileSync(path.join(stateFolder, versionFile), `${stateVersion}\n`);
  // Left by a start that was killed. In a container the next start has the same process id, so the file would seem to be its own.
  rmSync(fileIn(stateFolder), { force: true });
}

/** File in the state folder with the version of the folder's layout. */
export const versionFile = "version";
/** The layout that this code reads and writes. A folder that holds objects without the file has version 1. */
const stateVersion = 2;
/** The version while a backup is being restored. It remains if the restore is killed. */
export const restoringVersion = "restoring";

/** Throws an Error for a folder of another layout: it would be read as if it held no adapters and no unsettled use. */
export function checkStateVersion(stateFolder: string): void {
  const file = path.join(stateFolder, versionFile);
  const isNew = !existsSync(path.join(stateFolder, "objects"));
  const text = existsSync(file) ? readFileSync(file, "utf8") : String(isNew ? stateVersion : 1);
  if (text.trim() === String(stateVersion)) return;
  if (text === restoringVersion) {
    throw new Error(`${stateFolder} holds a part of a backup, whose restore was stopped: remove it, and restore again`);
  }
  throw new Error(
    `${stateFolder} has the layout ${JSON.stringify(text.trim().slice(0, 20))}, and this version knows ${stateVersion}: serve it by the version that wrote it`,
  );
}

/** null if no start runs here, or if run.json cannot be trusted; then `warn` is called with the reason. */
export function readLocalRun(stateFolder: string, warn = warnOnStderr): LocalRun | null {
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

/** Throws an Error that repeats nothing of the text, since the text may hold keys. */
function parsedRun(text: string): LocalRun {
  try {
    return runSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new Error("it must hold a process, a loopback address and keys", { cause });
  }
}

/** Reads a file. Throws an Error if another user owns it or may read or write it. */
export function readPrivate(file: string): string {
  // O_NONBLOCK, because opening a named pipe would wait for a writer.
  const descriptor = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const stats = fstatSync(descriptor);
    const { uid, mode } = stats;
    if (!stats.isFile()) throw new Error("it is no regular file");
    const user = process.getuid?.();
    // Windows has no owners and modes of this kind: getuid is undefined there.
    if (user !== undefined && uid !== user) throw new Error("another user owns it");
    if (user !== undefined && (mode & 0o077) !== 0) throw new Error("its mode lets other users in; it must be 0600");
    return readFileSync(descriptor, "utf8");
  } finally {
    closeSync(descriptor);
  }
}

/** Whether a process of this id runs, of whichever user. */
function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

function warnOnStderr(line: string): void {
  process.stderr.write(`${line}\n`);
}

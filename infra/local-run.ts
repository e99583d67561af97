/**
 * The file by which other commands of this machine find a running `chameleon start`: its process, the edge's
 * address and keys. Only its user can read it, and it is removed with the process. Commands look for it below the current folder, where
 * somebody else may have put one to be sent the user's key, so its owner, mode and content are checked.
 */
import {
  closeSync,
  constants,
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
  // 0 and negative numbers name process groups, which always exist.
  pid: z.int().positive(),
  edge: loopbackOrigin,
  /** What its user's commands call it with. */
  key: z.string(),
  adminKey: z.string(),
  /** The process of the Worker, which writes the state. */
  worker: z.int().positive(),
});
export type LocalRun = z.infer<typeof runSchema>;

function fileIn(stateFolder: string): string {
  return path.join(stateFolder, "run.json");
}

/** Writes the file for this process, and removes it when the process ends, unless it is another's then. */
export async function writeLocalRun(stateFolder: string, run: LocalRun): Promise<void> {
  const file = fileIn(stateFolder);
  await writeWhole(file, Buffer.from(JSON.stringify(run)), { mode: 0o600 });
  process.once("exit", () => {
    if (readLocalRun(stateFolder, () => {})?.pid === run.pid) rmSync(file, { force: true });
  });
}

/**
 * Keeps other starts out of this folder until the process ends: two would each count a tenant's use for themselves. Throws an Error
 * if another start has it. Each start first writes its own file and then looks for others', so that of two at the same time at most
 * one goes on, perhaps none.
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
  // Of a start that was killed: in a container the next one has the same process id.
  rmSync(fileIn(stateFolder), { force: true });
}

/** In the state folder: the version of its layout. */
export const versionFile = "version";
/** The layout that this code reads and writes. A folder without a version has the first. */
const stateVersion = 1;
/** The version of a folder while a backup is restored to it, and after a restore that was killed. */
export const restoringVersion = "restoring";

/** Throws an Error for a folder that a newer version has written. */
export function checkStateVersion(stateFolder: string): void {
  const text = readFileIfThere(path.join(stateFolder, versionFile)) ?? "1";
  if (/^\d{1,6}$/.test(text.trim()) && Number(text) <= stateVersion) return;
  if (text === restoringVersion) {
    throw new Error(`${stateFolder} holds a part of a backup, whose restore was stopped: remove it, and restore again`);
  }
  throw new Error(
    `${stateFolder} has the layout ${JSON.stringify(text.trim().slice(0, 20))}, and this version knows ${stateVersion}: serve it by the version that wrote it, or a newer one`,
  );
}

function readFileIfThere(file: string): string | null {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/** null if none runs, or if the file cannot be trusted; `warn` is called with the reason. */
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

/** Throws an Error, which repeats nothing of the text. */
function parsedRun(text: string): LocalRun {
  try {
    return runSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new Error("it must hold a process, a loopback address and keys", { cause });
  }
}

/** Throws an Error where another user could have written the file, or could read it. */
export function readPrivate(file: string): string {
  // Non-blocking, or a named pipe would never open.
  const descriptor = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const stats = fstatSync(descriptor);
    const { uid, mode } = stats;
    if (!stats.isFile()) throw new Error("it is no regular file");
    const user = process.getuid?.();
    // Windows has neither owners nor modes in this sense.
    if (user !== undefined && uid !== user) throw new Error("another user owns it");
    if (user !== undefined && (mode & 0o077) !== 0) throw new Error("its mode lets other users in; it must be 0600");
    return readFileSync(descriptor, "utf8");
  } finally {
    closeSync(descriptor);
  }
}

/** False for a process that was killed outright and has left its file. True for another user's. */
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

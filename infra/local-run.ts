/**
 * run.json in the state folder, by which commands find a running `chameleon start`. Owner, mode and server address are checked, because an
 * attacker may have left a run.json in the current folder.
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
  worker: z.int().positive(),
});
export type LocalRun = z.infer<typeof runSchema>;

const fileIn = (stateFolder: string) => path.join(stateFolder, "run.json");

export async function writeLocalRun(stateFolder: string, run: LocalRun): Promise<void> {
  const file = fileIn(stateFolder);
  await writeWhole(file, Buffer.from(JSON.stringify(run)), { mode: 0o600 });
  process.once("exit", () => {
    if (readLocalRun(stateFolder, () => {})?.pid === run.pid) fs.rmSync(file, { force: true });
  });
}

/**
 * Claims the state folder until this process ends. Two edges on it would each count a tenant's use. Throws an Error if another start has
 * the folder. A start writes its lock file before it looks for others', so of two simultaneous starts at most one continues.
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
  // A killed start may have left run.json. In a container this process could have the same id.
  fs.rmSync(fileIn(stateFolder), { force: true });
}

export const versionFile = "version";
/** Version 1 had no version file. */
const stateVersion = 2;
/** Text of the version file until a restore is complete. */
export const restoringVersion = "restoring";

/** Throws an Error for another layout, in which this version would find no adapters and no unsettled use. */
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

/** Returns null if no start runs here, or if run.json cannot be trusted. `warn` then gets a line with the reason. */
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

/** The Error repeats nothing of `text`, which may hold keys. */
function parsedRun(text: string): LocalRun {
  try {
    return runSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new Error("it must hold a process, a loopback address and keys", { cause });
  }
}

/** Throws an Error if another user owns the file or may access it. */
export function readPrivate(file: string): string {
  // Without O_NONBLOCK, opening a named pipe would wait for a writer.
  const descriptor = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK);
  try {
    const stats = fs.fstatSync(descriptor);
    const { uid, mode } = stats;
    if (!stats.isFile()) throw new Error("it is no regular file");
    const user = process.getuid?.();
    // On Windows getuid is undefined. Owner and mode are not checked there.
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

/** Writes a staged file in one step, where it differs. */
import { readFile, rename, writeFile } from "node:fs/promises";

/** Whether it was written. */
export async function stageFile(destination: string, wanted: Buffer): Promise<boolean> {
  const present = await readFile(destination).catch(() => null);
  if (present?.equals(wanted)) return false;
  // The process id keeps two stagings at once from writing into one file.
  const unfinished = `${destination}.${process.pid}`;
  await writeFile(unfinished, wanted);
  await rename(unfinished, destination);
  return true;
}

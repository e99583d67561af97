/**
 * What a running `chameleon start` leaves in its state folder for other commands of this machine: where it listens, and what
 * signs calls to its backends. Only its user can read the file; it goes with the process.
 */
import { readFileSync, rmSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";

const runSchema = z.object({
  pid: z.int(),
  edge: z.string(),
  key: z.string(),
  backends: z.array(z.string()),
  backendSecrets: z.string(),
  modelDirectory: z.string().nullable(),
});
export type LocalRun = z.infer<typeof runSchema>;

function fileIn(stateFolder: string): string {
  return path.join(stateFolder, "run.json");
}

/** Removes it again when this process ends. */
export async function writeLocalRun(stateFolder: string, run: LocalRun): Promise<void> {
  await mkdir(stateFolder, { recursive: true });
  const file = fileIn(stateFolder);
  rmSync(file, { force: true });
  await writeFile(file, JSON.stringify(run), { mode: 0o600 });
  process.once("exit", () => rmSync(file, { force: true }));
}

/** null where none runs. */
export function readLocalRun(stateFolder: string): LocalRun | null {
  try {
    const run = runSchema.parse(JSON.parse(readFileSync(fileIn(stateFolder), "utf8")));
    // A process that was killed outright has left its file.
    process.kill(run.pid, 0);
    return run;
  } catch {
    return null;
  }
}

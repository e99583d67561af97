/** Finished parts of an evaluation on disk, so that an interrupted one can continue. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { nullIfMissing } from "../bounded-file.ts";
import { writeWhole } from "../whole-file.ts";
import { keyOf } from "./prepare.ts";

/** Returns the value stored under `choices`, or stores and returns what `make` gives. Values must be JSON. */
export async function keptOrMade<T>(
  directory: string,
  name: string,
  choices: readonly unknown[],
  make: () => Promise<T>,
): Promise<T> {
  const path = join(directory, `${name}-${keyOf(...choices)}.json`);
  const kept = await readFile(path, "utf8").catch(nullIfMissing);
  if (kept !== null) return JSON.parse(kept) as T;
  const made = await make();
  await writeWhole(path, JSON.stringify(made));
  return made;
}

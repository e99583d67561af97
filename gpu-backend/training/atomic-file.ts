/** Writes files so that a reader sees the old bytes or the new ones, never half of them. */
import { mkdir, open, rename } from "node:fs/promises";
import { dirname } from "node:path";

export async function writeAtomically(path: string, content: Uint8Array | string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.partial`;
  const file = await open(temporary, "w");
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}

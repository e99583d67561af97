/** The file of a model folder with the magnitudes of activations that int8 is smoothed by (runtime/smoothing.ts). Import measures them. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { readTensorFile, type TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { nullIfMissing, readFileAtMost } from "../files.ts";

export const smoothingFile = "smoothing.safetensors";
/** Bound on the file. SmolLM2-135M takes 390 kB; 80 layers of 8,192 channels would take 6 MB. */
const maxBytes = 2 ** 25;

/** null if the folder has no such file. Throws an Error that names the file if it cannot be read. */
export async function readSmoothing(modelDirectory: string): Promise<{ magnitudes: TensorFile; hash: string } | null> {
  const path = join(modelDirectory, smoothingFile);
  const bytes = await readFileAtMost(path, maxBytes).catch(nullIfMissing);
  if (!bytes) return null;
  if (bytes.byteLength > maxBytes) throw new Error(`${path} has more than ${maxBytes} bytes, the maximum`);
  return { magnitudes: readTensorFile(bytes, path), hash: createHash("sha256").update(bytes).digest("hex") };
}

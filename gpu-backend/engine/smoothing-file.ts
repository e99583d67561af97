/** Reads the file of activations' magnitudes (runtime/smoothing.ts), which the import writes. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { readTensorFile, type TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { nullIfMissing, readFileAtMost } from "../files.ts";

export const smoothingFile = "smoothing.safetensors";
/** SmolLM2-135M's file has 390 kB. A model of 80 layers with 8,192 channels would have a file of 6 MB. */
const maxBytes = 2 ** 25;

/** Returns null if the folder has no such file. */
export async function readSmoothing(modelDirectory: string): Promise<{ magnitudes: TensorFile; hash: string } | null> {
  const path = join(modelDirectory, smoothingFile);
  const bytes = await readFileAtMost(path, maxBytes).catch(nullIfMissing);
  if (!bytes) return null;
  if (bytes.byteLength > maxBytes) throw new Error(`${path} has more than ${maxBytes} bytes, the maximum`);
  return { magnitudes: readTensorFile(bytes, path), hash: createHash("sha256").update(bytes).digest("hex") };
}

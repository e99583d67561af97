/** The file of a model folder that int8 is smoothed by: magnitudes of activations, which import measures. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { readTensorFile, type TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { nullIfMissing, readFileAtMost } from "../files.ts";

export const smoothingFile = "smoothing.safetensors";
/** Four bytes for each input channel: 390 kB of SmolLM2-135M, and 6 MB of a model with 80 layers of 8,192 channels. */
const maxBytes = 2 ** 25;

/** null if the folder has none. Throws an Error that names the file if it cannot be read. */
export async function readSmoothing(modelDirectory: string): Promise<{ magnitudes: TensorFile; hash: string } | null> {
  const path = join(modelDirectory, smoothingFile);
  const bytes = await readFileAtMost(path, maxBytes).catch(nullIfMissing);
  if (!bytes) return null;
  if (bytes.byteLength > maxBytes) throw new Error(`${path} has more than ${maxBytes} bytes, the maximum`);
  return { magnitudes: readTensorFile(bytes, path), hash: createHash("sha256").update(bytes).digest("hex") };
}

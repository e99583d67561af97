/**
 * `node infra/stage-artifacts.ts [MODEL_DIR]`: copies the edge's artifacts to the static assets, and writes the pages. Runs before tests
 * and deployments.
 */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { writeIfDifferent } from "../gpu-backend/files.ts";
import { embeddedModel } from "../gpu-backend/models/embedded.ts";
import { edgeTableFile, manifestFile, tokenizerFile } from "../shared/artifacts/manifest.ts";
import { stagePages } from "./stage-pages.ts";

const root = path.dirname(import.meta.dirname);
/** Files to copy, in order. The edge refuses new files until the manifest, which is last, has their hashes. */
const stagedFiles = [edgeTableFile, tokenizerFile, manifestFile];

/** Copies each file that differs, atomically. Returns the names of the copied files. */
export async function stageArtifacts(
  modelDirectory: string = embeddedModel,
  target: string = path.join(root, "edge/public/artifacts"),
): Promise<string[]> {
  const copied: string[] = [];
  for (const name of stagedFiles) {
    const source = path.join(modelDirectory, "artifacts", name);
    const wanted = await readFile(source).catch((cause) => {
      throw new Error(`cannot read the artifact ${source}; train it, or name another model directory`, { cause });
    });
    if (await writeIfDifferent(path.join(target, name), wanted)) copied.push(name);
  }
  return copied;
}

if (import.meta.main) {
  const copied = [...(await stageArtifacts(process.argv[2])), ...(await stagePages())];
  process.stdout.write(copied.length > 0 ? `staged ${copied.join(", ")}\n` : "the staged assets are up to date\n");
}

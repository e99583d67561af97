/**
 * Puts the edge's share of a model's artifacts where wrangler takes static assets from. Run, with stage-pages.ts, before every
 * local start, test run and deployment: `node infra/stage-artifacts.ts [MODEL_DIR]`.
 */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { writeIfDifferent } from "../gpu-backend/files.ts";
import { embeddedModel } from "../gpu-backend/models/embedded.ts";
import { edgeTableFile, manifestFile, tokenizerFile } from "../shared/artifacts/manifest.ts";
import { stagePages } from "./stage-pages.ts";

const root = path.dirname(import.meta.dirname);
/** The manifest last: whoever reads in between sees files that do not match it, and says so. */
const stagedFiles = [edgeTableFile, tokenizerFile, manifestFile];

/**
 * Copies what differs, each file in one step, and returns the names of the copied.
 * Throws an Error that names a file which cannot be read.
 */
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

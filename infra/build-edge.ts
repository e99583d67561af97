/**
 * `node infra/build-edge.ts FOLDER`: builds the pages, and writes the Worker's files to FOLDER. Runs in a process of its own, because
 * wrangler and esbuild take 200 MB.
 */
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { stagePages } from "./stage-pages.ts";
import { bundleWorker, settingsFile } from "./workerd/bundle.ts";
import { workerSettings } from "./workerd/config.ts";
import { readWranglerConfig } from "./wrangler.ts";

const root = path.dirname(import.meta.dirname);

export async function buildLocalWorker(folder: string): Promise<void> {
  await bundleWorker(path.join(root, "edge/local-worker.ts"), folder);
  const settings = workerSettings(await readWranglerConfig(path.join(root, "wrangler.toml")));
  await writeFile(path.join(folder, settingsFile), JSON.stringify(settings));
}

if (import.meta.main) {
  await stagePages();
  await buildLocalWorker(process.argv[2]);
}

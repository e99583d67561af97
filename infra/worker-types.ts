/** Generates types of the Workers runtime and of wrangler.toml's bindings. Git ignores these files. */
import { execFile } from "node:child_process";
import { stat, utimes } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { quietWrangler, wranglerProgram } from "./wrangler.ts";

const root = path.dirname(import.meta.dirname);
const typesFile = "edge/worker-configuration.d.ts";
const sources = ["wrangler.toml", "package-lock.json"];

/** Writes the types if they are missing or older than `sources`. Throws an Error with wrangler's output. */
export async function generateWorkerTypes(): Promise<void> {
  const stats = [typesFile, ...sources].map((file) => stat(path.join(root, file)).catch(() => null));
  const [typesMs, ...sourcesMs] = (await Promise.all(stats)).map((one) => one?.mtimeMs ?? 0);
  if (sourcesMs.every((sourceMs) => sourceMs < typesMs)) return;
  await promisify(execFile)(process.execPath, [wranglerProgram(), "types", "--strict-vars=false", typesFile], {
    cwd: root,
    env: { ...process.env, ...quietWrangler },
  });
  // wrangler does not write unchanged types. A new time marks them as up to date.
  await utimes(path.join(root, typesFile), new Date(), new Date());
}

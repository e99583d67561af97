/** Runs the Worker on this machine, in a bare workerd. */
import { existsSync, rmSync } from "node:fs";
import { cp, readFile } from "node:fs/promises";
import path from "node:path";
import { runScript } from "./run-script.ts";
import { builtFolder, settingsFile } from "./workerd/bundle.ts";
import { stateFolders } from "./workerd/config.ts";
import { type BareEdge, bareEdge, temporaryFolder } from "./workerd/edge.ts";

/** The API key of a start that this machine alone can reach. No other edge knows its hash, so it is not a secret. */
export const localKey = "sk-chameleon-local";

/** Where the pages are that the edge serves, but for the artifacts. */
export const pagesFolder = path.join(import.meta.dirname, "../edge/public");

/** Folder of a local edge's storage: keys, limits, usage, artifacts. Commands reach it through the edge. */
export function stateFolder(): string {
  return path.resolve(process.env.STATE_DIR || ".chameleon");
}

/** Folder of the published artifacts, which edge and backends read. */
export function artifactsFolder(): string {
  return stateFolders.bucket(stateFolder(), "ARTIFACTS");
}

/** Builds the Worker and the pages; a package and an image have them built. The Worker's files are removed when it was started, or with this process. */
export async function prepareEdge(): Promise<BareEdge> {
  const folder = await temporaryFolder();
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  if (existsSync(builtFolder)) await cp(builtFolder, folder, { recursive: true });
  else await runScript(new URL("./build-edge.ts", import.meta.url), [folder]);
  const settings = JSON.parse(await readFile(path.join(folder, settingsFile), "utf8"));
  return bareEdge(folder, settings, pagesFolder);
}

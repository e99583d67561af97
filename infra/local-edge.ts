import { existsSync, rmSync } from "node:fs";
import { cp, readFile } from "node:fs/promises";
import path from "node:path";
import { runScript } from "./run-script.ts";
import { builtFolder, settingsFile } from "./workerd/bundle.ts";
import { stateFolders } from "./workerd/config.ts";
import { type BareEdge, bareEdge, temporaryFolder } from "./workerd/edge.ts";

/** Public API key, which only an edge on loopback accepts. */
export const localKey = "sk-chameleon-local";

export const pagesFolder = path.join(import.meta.dirname, "../edge/public");

/** Folder of keys, limits, usage and artifacts. */
export function stateFolder(): string {
  return path.resolve(process.env.STATE_DIR || ".chameleon");
}

export function artifactsFolder(): string {
  return stateFolders.bucket(stateFolder(), "ARTIFACTS");
}

/** Builds the Worker and the pages, unless the npm package or image has them. Puts the Worker's files into a temporary folder. */
export async function prepareEdge(): Promise<BareEdge> {
  const folder = await temporaryFolder();
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  if (existsSync(builtFolder)) await cp(builtFolder, folder, { recursive: true });
  else await runScript(new URL("./build-edge.ts", import.meta.url), [folder]);
  const settings = JSON.parse(await readFile(path.join(folder, settingsFile), "utf8"));
  return bareEdge(folder, settings, pagesFolder);
}

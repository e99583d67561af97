/** Runs the Worker on this machine, in a bare workerd. */
import { rmSync } from "node:fs";
import { cp, readFile } from "node:fs/promises";
import path from "node:path";
import { runScript } from "./run-script.ts";
import { builtFolder, settingsFile } from "./workerd/bundle.ts";
import { stateFolders } from "./workerd/config.ts";
import { type BareEdge, bareEdge, temporaryFolder } from "./workerd/edge.ts";
import type { WorkerdProcess } from "./workerd/process.ts";

/** The API key of a local start. No deployment knows its hash, so it is not a secret. */
export const localKey = "sk-chameleon-local";

/** Where the pages are that the edge serves, but for the artifacts. */
export const pagesFolder = path.join(import.meta.dirname, "../edge/public");

/** Folder of a local edge's storage: keys, limits, usage, artifacts. Commands write there, also while the edge runs. */
export function stateFolder(): string {
  return path.resolve(process.env.STATE_DIR || ".chameleon");
}

/** Folder of the records of keys and tenants. */
export function keysFolder(): string {
  return stateFolders.namespace(stateFolder(), "TENANTS");
}

/** Folder of the published artifacts, which edge and backends read. */
export function artifactsFolder(): string {
  return stateFolders.bucket(stateFolder(), "ARTIFACTS");
}

/** Builds the Worker and the pages where they are not built yet. The Worker's files are removed when it was started, or with this process. */
export async function prepareEdge(): Promise<BareEdge> {
  const folder = await temporaryFolder();
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  if (import.meta.filename.endsWith(".js")) await cp(builtFolder, folder, { recursive: true });
  else await runScript(new URL("./build-edge.ts", import.meta.url), [folder]);
  const settings = JSON.parse(await readFile(path.join(folder, settingsFile), "utf8"));
  return bareEdge(folder, settings, pagesFolder);
}

export interface LocalEdge {
  port: number;
  /** Folder of the static assets. */
  assets: string;
  backendUrls: readonly string[];
  /** What signs its calls to backends. */
  secrets: string;
}

/** Starts the Worker. It ends with this process. Throws an Error that says why it does not start. */
export async function startEdge(
  edge: BareEdge,
  { port, assets, backendUrls, secrets }: LocalEdge,
): Promise<WorkerdProcess> {
  const vars = { BACKEND_URLS: backendUrls.join(","), BACKEND_SECRETS: secrets, ...ownVariables(process.env) };
  const settings = { port, vars, assets, keys: { [localKey]: "local" }, state: stateFolder() };
  try {
    return await edge.start(settings, { stderr: process.stderr });
  } catch (cause) {
    throw new Error(`the edge did not start on port ${port}: ${(cause as Error).message}`, { cause });
  } finally {
    // workerd has read it.
    edge.remove();
  }
}

/** Variables that the Worker has of this process's environment. Edge and backends use the same collector. */
function ownVariables(env: NodeJS.ProcessEnv): Record<string, string> {
  const names = ["EDGE_HOSTS", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_SAMPLER_ARG"];
  return Object.fromEntries(names.flatMap((name) => (env[name] ? [[name, env[name]]] : [])));
}

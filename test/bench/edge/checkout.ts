/** A checkout of this repository, this one or another, whose edge is measured. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { manifestFile } from "../../../shared/artifacts/manifest.ts";
import { sha256Hex } from "../../../shared/sha256.ts";

export interface StagedCheckout {
  /** Folder of the Worker's static assets. */
  assets: string;
  /** Of the artifacts among them. */
  manifestHash: string;
}

/** Stages the assets of a checkout, which has its packages installed, by its own code. */
export async function stageCheckout(folder: string): Promise<StagedCheckout> {
  const staging: typeof import("../../../infra/stage-artifacts.ts") = await import(
    pathToFileURL(path.join(folder, "infra/stage-artifacts.ts")).href
  );
  await staging.stageArtifacts();
  const assets = path.join(folder, "edge/public");
  return { assets, manifestHash: await sha256Hex(await readFile(path.join(assets, "artifacts", manifestFile))) };
}

/** Artifacts of the tiny model, as the edge loads and publishes them. */

import { env } from "cloudflare:workers";
import { type Artifacts, loadArtifacts } from "../../edge/artifacts/artifacts.ts";
import { pointerName, switchedTo } from "../../shared/artifacts/bucket.ts";
import { edgeModelFiles } from "../support/edge-model.ts";
import { loadOnce } from "../support/load-once.ts";

export async function edgeArtifactsWith(...change: Parameters<typeof edgeModelFiles>): Promise<Artifacts> {
  const files = await edgeModelFiles(...change);
  return loadArtifacts(async (name) => files.get(name)!);
}

/** The artifacts are built at the first call. */
export const artifactsWith = (...change: Parameters<typeof edgeModelFiles>) =>
  loadOnce(() => edgeArtifactsWith(...change));

/** Renders each message as the first letter of its role, its text and an end of text. */
export const turnsTemplate =
  "{% for message in messages %}{{ message.role[0] }}{{ message.content }}{{ eos_token }}{% endfor %}";

export const edgeArtifacts = artifactsWith();

/** Publishes a manifest to all objects. Its files must be loaded in this isolate. */
export async function publish(manifest?: string): Promise<void> {
  const pointer = switchedTo(manifest ?? (await manifestHash()), new Date(0), null);
  await env.ARTIFACTS.put(pointerName, JSON.stringify(pointer));
}

export async function manifestHash(): Promise<string> {
  return (await edgeArtifacts()).manifestHash;
}

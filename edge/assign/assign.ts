/** Which centroid a prompt goes to, and whether its adapter is worn. Pure. */
import { type CentroidRecord, isAutoOff, type Manifest } from "../../shared/artifacts/manifest.ts";
import { ServiceError } from "../../shared/errors.ts";
import { promptEmbedding, rankCentroids } from "../../shared/math/assignment.ts";
import type { NamedAdapters, OwnAdapter } from "../tenants/own-adapters.ts";
import type { Artifacts } from "./artifacts.ts";

/** What a request asks for: the nearest centroid, no adapter, a centroid by its index, or an adapter of the tenant's own. */
export type Wish = "auto" | "off" | number | OwnAdapter;

export interface Assignment {
  /** One of the manifest's, or that of the tenant's own adapter, by whose name it goes. */
  centroid: Pick<CentroidRecord, "id" | "gain" | "promptBias">;
  /** Cosine of prompt embedding and centroid. */
  similarity: number;
  /** Of an adapter of the tenant's own; null where the adapter is the centroid's. */
  ownHash: string | null;
  mode: "adapted" | "off" | "auto-off";
}

/**
 * The wish behind `model` (`gpt2`, `gpt2:auto`, `gpt2:<centroid>`, `gpt2:<own adapter>`; absent: auto) and the extension's
 * `adapter`, which overrides it. `model` must exist even then: answers and usage repeat it.
 * Throws model_not_found or invalid_request.
 */
export function wishOf(
  model: string | undefined,
  adapter: string | undefined,
  manifest: Manifest,
  own: NamedAdapters = { byModel: null, byAdapter: null },
): Wish {
  const byModel = own.byModel ?? modelWish(model ?? `${manifest.model.servedAs}:auto`, manifest);
  if (adapter === undefined) return byModel;
  if (own.byAdapter) return own.byAdapter;
  if (adapter === "auto" || adapter === "off") return adapter;
  const index = manifest.centroids.findIndex(({ id }) => id === adapter);
  if (index >= 0) return index;
  throw new ServiceError(
    "invalid_request",
    `chameleon.adapter is ${JSON.stringify(adapter)}; it must be "auto", "off", an adapter of your own or one of the ${manifest.centroids.length} centroids of GET /v1/centroids.`,
    { param: "chameleon.adapter" },
  );
}

function modelWish(model: string, manifest: Manifest): Wish {
  const { servedAs } = manifest.model;
  if (model === servedAs) return "off";
  if (model === `${servedAs}:auto`) return "auto";
  const index = manifest.centroids.findIndex(({ id }) => model === `${servedAs}:${id}`);
  if (index >= 0) return index;
  throw new ServiceError(
    "model_not_found",
    `The model ${JSON.stringify(model.slice(0, 80))} does not exist; there is ${servedAs}, ${servedAs}:auto and ${servedAs}:<centroid> (GET /v1/models).`,
    { param: "model" },
  );
}

/** Assigns a prompt by its first `prefixTokens` token ids. */
export function assign(promptIds: readonly number[], wish: Wish, artifacts: Artifacts): Assignment {
  if (typeof wish === "object") return assignOwn(promptIds, wish, artifacts);
  const ranked = rank(promptIds, artifacts);
  const { index, similarity } = (typeof wish === "number" && ranked.find((one) => one.index === wish)) || ranked[0];
  const centroid = artifacts.manifest.centroids[index];
  const mode = wish === "off" ? "off" : isAutoOff(centroid) ? "auto-off" : "adapted";
  return { centroid, similarity, ownHash: null, mode };
}

function assignOwn(promptIds: readonly number[], own: OwnAdapter, artifacts: Artifacts): Assignment {
  const vectors = Float32Array.from(own.centroid);
  const centroid = { count: 1, dimensions: vectors.length, vectors };
  const [{ similarity }] = rankCentroids(embeddingOf(promptIds, artifacts), centroid);
  const mode = own.gain ? "adapted" : "auto-off";
  return { centroid: { id: own.name, gain: own.gain }, similarity, ownHash: own.hash, mode };
}

/** All centroids, nearest first. */
export function rank(promptIds: readonly number[], artifacts: Artifacts): { index: number; similarity: number }[] {
  return rankCentroids(embeddingOf(promptIds, artifacts), artifacts.centroids);
}

function embeddingOf(promptIds: readonly number[], { manifest, table }: Artifacts): Float32Array {
  return promptEmbedding(promptIds.slice(0, manifest.embedding.prefixTokens), table);
}

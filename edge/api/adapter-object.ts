import type { Adapter } from "../../shared/contracts/responses.ts";
import { ServiceError } from "../../shared/errors.ts";
import { rankCentroids } from "../../shared/math/assignment.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { failedRefit, type OwnAdapter, type OwnMemory } from "../tenants/own-adapters.ts";
import type { OwnAdapters } from "../tenants/tenant-adapters.ts";
import type { AppContext } from "./dependencies.ts";

export async function adapterResponse(
  c: AppContext,
  own: OwnAdapters,
  name: string,
  artifacts: Artifacts,
  status: 200 | 201 | 202,
  headers: Record<string, string> = {},
): Promise<Response> {
  const [adapter, documents] = await Promise.all([own.find(name), own.documentsOf(name)]);
  if (!adapter) throw notFound(name);
  const isKept = adapter.memory && adapter.keep !== false;
  const known = { ...adapterObject(adapter, artifacts), ...(isKept && { documents }) };
  return c.json(known, status, { ...headers, ...(status !== 200 && { location: `/v1/adapters/${name}` }) });
}

export function adapterObject(adapter: OwnAdapter, { manifest, manifestHash, centroids }: Artifacts): Adapter {
  const { name, hash, gain, examples, tokens, task, created, keep = true } = adapter;
  const memory = adapter.memory ?? null;
  const outdated = adapter.manifestHash !== manifestHash;
  const failed = failedRefit(adapter, manifestHash);
  const [nearest] = outdated ? [] : rankCentroids(Float32Array.from(adapter.centroid), centroids);
  return {
    id: name,
    object: "adapter",
    name,
    model: `${manifest.model.servedAs}:${name}`,
    hash,
    created,
    examples,
    tokens,
    labels: task?.labels ?? null,
    gain,
    adapts: gain !== null || Boolean(memory?.ready),
    message: [gain === null && !memory ? noGain : [], keep ? [] : notKept].flat().join(" ") || null,
    keep,
    centroid: nearest ? { nearest: manifest.centroids[nearest.index].id, similarity: nearest.similarity } : null,
    memory: memory && memoryObject(memory),
    outdated,
    refit: outdated ? { status: failed?.isFinal ? "failed" : "waiting", error: failed?.error ?? null } : null,
  };
}

const noGain =
  "What it learnt did not gain on examples that it was not made from, so nothing was kept: this model is the base.";
const notKept =
  "What it was made of is not kept: it is not made again for other artifacts, with which it is gone, its documents cannot change, and a backend that loses its memory cannot be given it.";

function memoryObject({ ready, job }: OwnMemory): Adapter["memory"] {
  const { documents, tokens, bytes } = (job ?? ready)!;
  const { status, error, builtTokens } = job ?? { status: "ready" as const, error: null, builtTokens: tokens };
  return { status, error, hash: ready?.hash ?? null, documents, tokens, bytes, built_tokens: builtTokens };
}

export function notFound(name: string): ServiceError {
  return new ServiceError("adapter_not_found", `You have no adapter ${JSON.stringify(name.slice(0, 80))}.`);
}

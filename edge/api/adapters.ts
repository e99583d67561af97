/** A tenant's own adapters: POST makes one from example texts, GET lists them or one, DELETE deletes one. */
import { contractVersion } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { createAdapterRequestSchema } from "../../shared/contracts/openai.ts";
import type { Adapter, AdapterDeleted, AdapterList } from "../../shared/contracts/responses.ts";
import { ServiceError } from "../../shared/errors.ts";
import { promptEmbedding, rankCentroids } from "../../shared/math/assignment.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { serverTiming } from "../platform/server-timing.ts";
import { type OwnAdapter, requireFreeName } from "../tenants/own-adapters.ts";
import type { Added } from "../tenants/tenant-adapter-store.ts";
import type { TenantAdapters } from "../tenants/tenant-adapters.ts";
import { answerList } from "./answer.ts";
import { readBody } from "./body.ts";
import type { RouteHandler } from "./dependencies.ts";

export const createAdapter: RouteHandler = async (c, dependencies) => {
  const { now, adapters } = dependencies;
  const { name, examples } = await readBody(c, dependencies, createAdapterRequestSchema);
  const artifacts = await dependencies.artifacts();
  const { manifest, manifestHash } = artifacts;
  requireFreeName(name, manifest);
  const tenant = c.get("access").tenant;
  const own = adapters.of(tenant);
  requireRoom(await own.roomFor(name), name);
  const startedMs = now();
  const encoded = encodeExamples(examples, artifacts);
  const tokens = encoded.reduce((sum, ids) => sum + ids.length, 0);
  const centroid = centroidOf(encoded, artifacts);
  const tokenize = now() - startedMs;

  const { signal } = c.req.raw;
  const admission = await c.get("admission").reserve(tokens);
  let answer: Awaited<ReturnType<TenantAdapters["create"]>> | null = null;
  let isBegun = false;
  try {
    const request = { manifestHash, tenant, centroid: [...centroid], examples: encoded };
    const begun = () => {
      isBegun = true;
    };
    const making = adapters.create({ version: contractVersion, ...request }, signal, begun);
    // Keeps this handler alive after the client has disconnected.
    dependencies.background(making.then(noop, noop));
    answer = await making;
  } finally {
    const model = `${manifest.model.servedAs}:${name}`;
    const used = { model, centroid: null, requests: 1, promptTokens: tokens, completionTokens: 0 };
    const isCharged = answer !== null || (isBegun && signal.aborted);
    admission.settle(isCharged ? [used] : []);
  }
  const { hash, parts, gain } = answer;
  const created = Math.floor(now() / 1000);
  const adapter: OwnAdapter = {
    ...{ name, hash, manifestHash, centroid: [...centroid], parts, gain },
    ...{ examples: examples.length, tokens, created },
  };
  requireRoom(await own.add(adapter, Uint8Array.fromBase64(answer.file).buffer, answer.copy), name);
  const { hiddenMs, fitMs } = answer.timings;
  return c.json(adapterObject(adapter, artifacts), 201, {
    location: `/v1/adapters/${name}`,
    "server-timing": serverTiming({ tokenize, hidden: hiddenMs, fit: fitMs }),
  });
};

export const listAdapters: RouteHandler = async (c, dependencies) => {
  const artifacts = await dependencies.artifacts();
  const own = dependencies.adapters.of(c.get("access").tenant);
  const [all, deletions] = await Promise.all([own.list(), own.deletions()]);
  const data = all.map((adapter) => adapterObject(adapter, artifacts));
  const deleting = deletions.map(({ name, deletedMs, backends }) => ({
    ...{ id: name, deleted: Math.floor(deletedMs / 1000), pending_backends: backends },
  }));
  return answerList<AdapterList>(c, dependencies, data, { others: { deleting } });
};

export const getAdapter: RouteHandler = async (c, dependencies) => {
  const name = c.req.param("name") ?? "";
  const adapter = await dependencies.adapters.of(c.get("access").tenant).find(name);
  if (!adapter) throw notFound(name);
  return c.json(adapterObject(adapter, await dependencies.artifacts()));
};

export const deleteAdapter: RouteHandler = async (c, dependencies) => {
  const { adapters } = dependencies;
  const tenant = c.get("access").tenant;
  const name = c.req.param("name") ?? "";
  const pending = await adapters.of(tenant).remove(name);
  if (pending === null) throw notFound(name);
  return c.json({ id: name, object: "adapter", deleted: true, pending_backends: pending } satisfies AdapterDeleted);
};

function noop(): void {}

function adapterObject(adapter: OwnAdapter, { manifest, manifestHash, centroids }: Artifacts): Adapter {
  const { name, hash, gain, parts, examples, tokens, created } = adapter;
  const [nearest] =
    adapter.manifestHash === manifestHash ? rankCentroids(Float32Array.from(adapter.centroid), centroids) : [];
  return {
    id: name,
    object: "adapter",
    name,
    model: `${manifest.model.servedAs}:${name}`,
    hash,
    created,
    examples,
    tokens,
    gain,
    parts,
    adapts: gain !== null,
    message:
      gain !== null
        ? null
        : "No part gained on examples it was not made from, so nothing was kept: this model is the base.",
    centroid: nearest ? { nearest: manifest.centroids[nearest.index].id, similarity: nearest.similarity } : null,
    outdated: adapter.manifestHash !== manifestHash,
  };
}

/** Throws invalid_request for texts that are too short or, together, too long. */
function encodeExamples(examples: readonly string[], { tokenizer, manifest }: Artifacts): number[][] {
  const refuse = (message: string, param: string) =>
    new ServiceError("invalid_request", `Invalid request: ${message}.`, { param });
  // The backend adds one token.
  const maxTokens = manifest.model.contextTokens - 1;
  let total = 0;
  return examples.map((text, i) => {
    const ids = tokenizer.encode(text, maxTokens).slice(0, maxTokens);
    const param = `examples[${i}]`;
    if (ids.length < 2) throw refuse(`${param} has ${ids.length} tokens, the minimum is 2`, param);
    total += ids.length;
    if (total <= limits.adapterTokens) return ids;
    throw refuse(
      `examples[0] to ${param} have ${total} tokens together (of each ${maxTokens} at most), the maximum is ${limits.adapterTokens}`,
      "examples",
    );
  });
}

/** The normalised mean of the examples' prompt embeddings, as training computes it from windows. */
function centroidOf(examples: readonly number[][], { table, manifest }: Artifacts): Float32Array {
  const sum = new Float32Array(table.dimensions);
  for (const ids of examples) {
    promptEmbedding(ids.slice(0, manifest.embedding.prefixTokens), table).forEach((value, p) => {
      sum[p] += value;
    });
  }
  const length = Math.hypot(...sum);
  return length > 0 ? sum.map((value) => value / length) : sum;
}

function requireRoom(room: Added, name: string): void {
  if (room === "added") return;
  if (room === "erased") throw new ServiceError("adapter_not_found", "The tenant was erased while this was made.");
  if (room === "taken") {
    const message = `You have an adapter ${name} already; DELETE /v1/adapters/${name} first.`;
    throw new ServiceError("invalid_request", message, { param: "name" });
  }
  throw new ServiceError(
    "adapter_quota_exceeded",
    `You have ${limits.adaptersPerTenant} adapters, the maximum is ${limits.adaptersPerTenant}; delete one first.`,
  );
}

function notFound(name: string): ServiceError {
  return new ServiceError("adapter_not_found", `You have no adapter ${JSON.stringify(name.slice(0, 80))}.`);
}

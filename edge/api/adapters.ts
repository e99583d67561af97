/** A tenant's own adapters. An adapter is made from documents (memories.ts), examples or both. */
import { contractVersion } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { createAdapterRequestSchema } from "../../shared/contracts/openai.ts";
import type { AdapterDeleted, AdapterList } from "../../shared/contracts/responses.ts";
import { encodeDocuments } from "../plan/documents.ts";
import { encodeExamples } from "../plan/examples.ts";
import { serverTiming } from "../platform/server-timing.ts";
import { requireFreeName, throwRefusal } from "../tenants/own-adapters.ts";
import { adapterObject, adapterResponse, notFound } from "./adapter-object.ts";
import { answerList } from "./answer.ts";
import type { RouteHandler } from "./dependencies.ts";
import { compressed, consumptionOf, makeMemory } from "./memories.ts";
import { readUpload } from "./upload.ts";

export const createAdapter: RouteHandler = async (c, dependencies) => {
  const { now, adapters } = dependencies;
  const { name, documents, examples, keep } = await readUpload(c, dependencies, createAdapterRequestSchema);
  const artifacts = await dependencies.artifacts();
  const { manifestHash } = artifacts;
  requireFreeName(name, artifacts.manifest);
  const { tenant, memoryTokens } = c.get("access");
  const own = adapters.of(tenant);
  throwRefusal(await own.roomFor(name));
  const startedMs = now();
  const encoded = examples && encodeExamples(examples, artifacts, now());
  const remembered = documents && (await encodeDocuments(documents, artifacts));
  const tokens = (encoded?.tokens ?? 0) + (remembered?.tokens ?? 0);
  const timings: Record<string, number> = { tokenize: now() - startedMs };

  const { signal } = c.req.raw;
  const admission = await c.get("admission").reserve(tokens);
  const consumed = consumptionOf(artifacts, name, tokens);
  /** True once a backend has begun to compute. From then on, a request whose client disconnects is charged. */
  let isBegun = false;
  let status: 201 | 202 = 201;
  const make = async () => {
    if (encoded) {
      const request = { manifestHash, tenant, examples: encoded.examples };
      const made = await adapters.create({ version: contractVersion, ...request }, signal, () => {
        isBegun = true;
      });
      const source = { examples: examples!, validation: null };
      const content = { manifestHash, centroid: [...encoded.centroid], tokens: encoded.tokens, examples: source };
      throwRefusal(await own.add({ name, keep }, content, made));
      Object.assign(timings, { hidden: made.timings.hiddenMs, fit: made.timings.fitMs });
    }
    if (remembered) {
      isBegun = true;
      const added = await compressed(remembered.documents);
      const isWaited = remembered.tokens <= limits.memoryTokensAtOnce;
      // The charge if the memory cannot be built. A request that waits for its memory then loses the fitted parts, too, and costs nothing.
      const otherwise = encoded && !isWaited ? consumptionOf(artifacts, name, encoded.tokens) : null;
      const charge = { request: admission.request, consumed, otherwise };
      const change = { manifestHash, added, maxTenantTokens: memoryTokens, charge, keep };
      const memoryMs = now();
      try {
        status = await makeMemory(own, { name, change, isNew: !encoded, isWaited }, signal);
      } catch (thrown) {
        if (encoded) await own.remove(name);
        throw thrown;
      }
      timings.memory = now() - memoryMs;
    }
    adapters.noteNew(tenant);
  };
  let isMade = false;
  try {
    const making = make();
    dependencies.background(making.catch(() => undefined));
    await making;
    isMade = true;
  } finally {
    // The tenant's store charges for a built memory. Charged here: an adapter without documents, or work after a disconnect.
    const isCharged = isMade ? !remembered : isBegun && signal.aborted;
    await admission.settle(isCharged ? [consumed] : []);
  }
  return adapterResponse(c, adapters.of(tenant), name, artifacts, status, { "server-timing": serverTiming(timings) });
};

export const listAdapters: RouteHandler = async (c, dependencies) => {
  const artifacts = await dependencies.artifacts();
  const { tenant } = c.get("access");
  const own = dependencies.adapters.of(tenant);
  const [all, deletions] = await Promise.all([own.list(), own.deletions()]);
  if (all.some(({ manifestHash }) => manifestHash !== artifacts.manifestHash)) {
    dependencies.adapters.refit(tenant, artifacts.manifestHash);
  }
  const data = all.map((adapter) => adapterObject(adapter, artifacts));
  const deleting = deletions.map(({ name, deletedMs, backends }) => ({
    ...{ id: name, deleted: Math.floor(deletedMs / 1000), pending_backends: backends },
  }));
  return answerList<AdapterList>(c, dependencies, data, { others: { deleting } });
};

export const getAdapter: RouteHandler = async (c, dependencies) => {
  const own = dependencies.adapters.of(c.get("access").tenant);
  return adapterResponse(c, own, c.req.param("name") ?? "", await dependencies.artifacts(), 200);
};

export const deleteAdapter: RouteHandler = async (c, dependencies) => {
  const { adapters } = dependencies;
  const tenant = c.get("access").tenant;
  const name = c.req.param("name") ?? "";
  const pending = await adapters.of(tenant).remove(name);
  if (pending === null) throw notFound(name);
  return c.json({ id: name, object: "adapter", deleted: true, pending_backends: pending } satisfies AdapterDeleted);
};

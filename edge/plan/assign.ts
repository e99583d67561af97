/** Finds the centroids nearest to a prompt and the experts that answer it. Pure. Not here: the experts' weights (mixture.ts). */
import { type CentroidRecord, hasMemory, isAutoOff, type Manifest, staticId } from "../../shared/artifacts/manifest.ts";
import type { AdapterField } from "../../shared/contracts/generation.ts";
import type { MixtureRequest } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";
import { dot, promptEmbedding, rankCentroids } from "../../shared/math/assignment.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { type NamedAdapters, type OwnAdapter, ownNamesText, shownText, suffixOf } from "../tenants/own-adapters.ts";
import {
  automaticMixture,
  type Candidate,
  type EvidenceTokens,
  listedMixture,
  type PlannedMixture,
  servedFor,
  staticCandidate,
} from "./mixture.ts";

/** An adapter that a request names: a centroid's index, an own adapter, or the static adapter. */
type NamedAdapter = number | OwnAdapter | typeof staticId;

/** "auto": base and nearest adapters, weighed by evidence. "nearest": only the nearest adapter. "off": only the base. */
export type Selection = "auto" | "nearest" | "off" | NamedAdapter | SelectedExpert[];

interface SelectedExpert {
  adapter: "base" | NamedAdapter;
  weight: number | null;
}

export interface Assignment {
  /** The nearest centroid. If the request names an adapter other than `static`: that adapter, or the first of a list. */
  centroid: Pick<CentroidRecord, "id" | "gain">;
  similarity: number;
  /** The mixture's first adapter; null if only the base answers. Decides micro-batch and routing, and is charged for the tokens. */
  adapter: { id: string; ownHash: string | null } | null;
  mode: "evidence" | "fixed" | "adapted" | "off" | "auto-off";
  /** null if only `adapter` or only the base answers. */
  mixture: MixtureRequest | null;
  experts: string[];
  memories: AssignedMemory[];
}

interface AssignedMemory {
  /** Name of an own adapter, or id of a centroid. */
  id: string;
  /** null for a centroid's memory. */
  hash: string | null;
}

/**
 * `model` is `<base>`, or `<base>:` and one of `auto` (the default), `static`, a centroid or an own adapter. `adapter` overrides `model`,
 * but `model` must exist, because answers and usage repeat it. Throws model_not_found or invalid_request.
 */
export function selectionOf(
  model: string | null,
  adapter: AdapterField | null,
  manifest: Manifest,
  own: NamedAdapters = new Map(),
): Selection {
  const byModel = modelSelection(model ?? `${manifest.model.servedAs}:auto`, manifest, own);
  if (adapter === null) return byModel;
  if (typeof adapter !== "string") {
    return adapter.map(({ id, weight }, i) => ({
      adapter: id === "base" ? id : namedAdapter(id, `chameleon.adapter[${i}].id`, '"base"', manifest, own),
      weight,
    }));
  }
  if (adapter === "auto" || adapter === "nearest" || adapter === "off") return adapter;
  return namedAdapter(adapter, "chameleon.adapter", '"auto", "nearest", "off"', manifest, own);
}

/** Throws invalid_request for an unknown id. The message names the field `at` and the allowed `keywords`. */
function namedAdapter(id: string, at: string, keywords: string, manifest: Manifest, own: NamedAdapters): NamedAdapter {
  const adapter = adapterOf(id, manifest, own);
  if (adapter !== null) return adapter;
  throw new ServiceError(
    "invalid_request",
    `${at} is ${JSON.stringify(id)}; it must be ${keywords}, an adapter of your own or one of the ${manifest.centroids.length} centroids of GET /v1/centroids${ownNamesText(own)}.`,
    { param: "chameleon.adapter" },
  );
}

function adapterOf(id: string, { centroids, static: fixed }: Manifest, own: NamedAdapters): NamedAdapter | null {
  if (id === staticId && fixed) return id;
  const index = centroids.findIndex((centroid) => centroid.id === id);
  return own.get(id) ?? (index >= 0 ? index : null);
}

function modelSelection(model: string, manifest: Manifest, own: NamedAdapters): Selection {
  const { servedAs } = manifest.model;
  const { aliases = [] } = own;
  if (model === servedAs) return "off";
  if (model === `${servedAs}:auto`) return "auto";
  const adapter = adapterOf(suffixOf(model, manifest), manifest, own);
  if (adapter !== null) return adapter;
  throw new ServiceError(
    "model_not_found",
    `The model ${JSON.stringify(model.slice(0, 80))} does not exist; there is ${servedAs}, ${servedAs}:auto and ${servedAs}:<centroid> (GET /v1/models)${shownText("aliases", aliases, "GET /v1/models")}${ownNamesText(own, `${servedAs}:`)}.`,
    { param: "model" },
  );
}

/**
 * Own adapters that join a mixture of "auto". A named own adapter with a ready memory also joins such a mixture, so that text unlike its
 * documents is answered as well as by the base.
 */
export function ownCandidatesOf(selection: Selection): "nearest" | OwnAdapter[] {
  if (selection === "auto") return "nearest";
  return isOwn(selection) && selection.memory?.ready ? [selection] : [];
}

function isOwn(selection: Selection): selection is OwnAdapter {
  return typeof selection === "object" && !Array.isArray(selection);
}

/** `evidence`: the prompt's tokens that weigh a mixture. `own`: own adapters that may join the mixture. */
export function assign(
  promptIds: readonly number[],
  selection: Selection,
  artifacts: Artifacts,
  evidence: EvidenceTokens = { tokens: promptIds.length },
  own: readonly OwnAdapter[] = [],
): Assignment {
  const { manifest } = artifacts;
  const embedding = embeddingOf(promptIds, artifacts);
  const nearestFirst = rankCentroids(embedding, artifacts.centroids).map(({ index, similarity }): Candidate => {
    const centroid = manifest.centroids[index];
    return { id: centroid.id, ownHash: null, similarity, gain: centroid.gain, isOff: isAutoOff(centroid) };
  });
  const [nearest] = nearestFirst;
  const candidateOf = (adapter: NamedAdapter): Candidate => {
    if (adapter === staticId) return staticCandidate(manifest)!;
    if (typeof adapter !== "number") return ownCandidate(adapter, embedding);
    return nearestFirst.find(({ id }) => id === manifest.centroids[adapter].id)!;
  };
  const mixed = (at: Candidate, { mode, experts, request }: PlannedMixture, memories: AssignedMemory[]) =>
    assignmentOf(at, mode, experts, request, memories.slice(0, limits.memoriesPerSequence));
  if (selection === "auto" || (isOwn(selection) && selection.memory?.ready)) {
    const candidates = own.map((one) => ownCandidate(one, embedding));
    const at = selection === "auto" ? nearest : ownCandidate(selection, embedding);
    const ofCentroid = selection === "auto" ? centroidMemoryOf(nearest, manifest, evidence) : [];
    const memories = [...memoriesOf(own), ...ofCentroid];
    return mixed(at, automaticMixture(nearestFirst, manifest, evidence, candidates), memories);
  }
  if (Array.isArray(selection)) {
    const listed = selection.map(({ adapter, weight }) => ({
      candidate: adapter === "base" ? null : candidateOf(adapter),
      weight,
    }));
    const planned = listedMixture(listed, manifest, evidence);
    const readers = selection.flatMap(({ adapter, weight }) =>
      typeof adapter === "object" && weight !== 0 ? [adapter] : [],
    );
    return mixed(planned.experts[0] ?? nearest, planned, memoriesOf(readers));
  }
  if (selection === "off") return assignmentOf(nearest, "off", [], null);
  const one = selection === "nearest" ? nearest : candidateOf(selection);
  const served = servedFor(one, manifest);
  const at = selection === staticId ? nearest : one;
  return assignmentOf(at, one.isOff ? "auto-off" : "adapted", served ? [served] : [], null);
}

function assignmentOf(
  { id, gain, similarity }: Candidate,
  mode: Assignment["mode"],
  experts: readonly Candidate[],
  mixture: MixtureRequest | null,
  memories: AssignedMemory[] = [],
): Assignment {
  const [first] = experts;
  const adapter = first ? { id: first.id, ownHash: first.ownHash } : null;
  const ids = experts.map((one) => one.id);
  return { centroid: { id, gain }, similarity, adapter, mode, mixture, experts: ids, memories };
}

function memoriesOf(readers: readonly OwnAdapter[]): AssignedMemory[] {
  const ready = readers.flatMap(({ name, memory }) => (memory?.ready ? [{ id: name, hash: memory.ready.hash }] : []));
  // Adapters with the same documents have the same memory, which is searched once, under the first adapter's name.
  const byHash = new Map(ready.reverse().map((one) => [one.hash, one]));
  return [...byHash.values()].reverse();
}

/** Answers of a chat are unlike the documents of which centroids' memories are made, so a chat reads none. */
function centroidMemoryOf({ id }: Candidate, { centroids }: Manifest, { spans }: EvidenceTokens): AssignedMemory[] {
  const record = centroids.find((one) => one.id === id)!;
  return !spans && hasMemory(record) ? [{ id, hash: null }] : [];
}

function ownCandidate({ name, hash, gain, centroid }: OwnAdapter, embedding: Float32Array): Candidate {
  return { id: name, ownHash: hash, similarity: dot(embedding, centroid), gain, isOff: gain === null };
}

export function rank(promptIds: readonly number[], artifacts: Artifacts): { index: number; similarity: number }[] {
  return rankCentroids(embeddingOf(promptIds, artifacts), artifacts.centroids);
}

export function embeddingOf(promptIds: readonly number[], { manifest, table }: Artifacts): Float32Array {
  return promptEmbedding(promptIds.slice(0, manifest.embedding.prefixTokens), table);
}

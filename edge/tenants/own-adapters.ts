/** Records and names of a tenant's own adapters. Pure; they are stored by tenant-adapter-store.ts and fitted by backends. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { Example, Task } from "../../shared/contracts/examples.ts";
import type { AdapterAnswer } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest, ServiceError } from "../../shared/errors.ts";
import type { Charge } from "./consumption.ts";

export interface OwnAdapter {
  name: string;
  /** The tenant's own content address of its fitted parts' bytes; null if it has only a memory. */
  hash: string | null;
  /** The manifest it was made for: only artifacts of this one can answer with it. */
  manifestHash: string;
  /** Mean prompt embedding of its documents, or else of its examples, of length 1, [P]. */
  centroid: number[];
  /** Measured on held-out examples; null if nothing was kept, and the base is served. */
  gain: AdapterAnswer["gain"];
  examples: number;
  tokens: number;
  /** What its examples teach, if they have labels. */
  task?: Task | null;
  /** Unix time in seconds. */
  created: number;
  /** null or absent if it has no documents. */
  memory?: OwnMemory | null;
  /** False: its examples and documents are not kept. */
  keep?: boolean;
  /** Why the last try to make it again for another manifest failed; null or absent if none has. */
  refit?: FailedRefit | null;
}

export interface FailedRefit {
  /** Which it was to be made for. */
  manifestHash: string;
  error: string;
  /** It is not tried again. */
  isFinal: boolean;
}

/** One set of documents of an adapter. */
export interface MemorySet {
  /** `memoryHash` of the documents. */
  hash: string;
  /** The manifest it is made for. */
  manifestHash: string;
  /** Number of documents; their tokens, and the bytes of their texts. */
  documents: number;
  tokens: number;
  bytes: number;
  /** Mean prompt embedding, of length 1, [P]. */
  centroid: number[];
}

/** A set of documents that backends are to make a memory of. */
export interface MemoryJob extends MemorySet {
  /** `failed`: its documents are gone, and it is not tried again. */
  status: "queued" | "building" | "failed";
  /** Tokens that the backend has finished. */
  builtTokens: number;
  /** Why the last try failed. */
  error: string | null;
  /** Of the requests whose documents it adds. */
  charges: Charge[];
}

/** At least one of the two is there. */
export interface OwnMemory {
  /** What requests use. */
  ready: MemorySet | null;
  /** Takes the place of `ready` when it is made. */
  job: MemoryJob | null;
}

/** The memory that is being made, unless its job failed; else the ready one; null if there is neither. */
export function wantedOf(memory: OwnMemory | null): MemorySet | null {
  if (memory?.job && memory.job.status !== "failed") return memory.job;
  return memory?.ready ?? null;
}

/** Memory of an adapter, as it is stored. */
export interface MemoryRecord extends OwnMemory {
  name: string;
  /** Unix time in seconds. */
  created: number;
  /** False: its documents are deleted when it is ready. */
  keep?: boolean;
}

export type RecordRow = { record: string };

/** An adapter with fitted parts, as it is stored. */
export type FittedAdapter = OwnAdapter & { hash: string };

export function fittedOf({ record }: RecordRow): FittedAdapter {
  return JSON.parse(record) as FittedAdapter;
}

/** At least one of the two is there. */
export function adapterOf(fitted: FittedAdapter | null, memory: MemoryRecord | null): OwnAdapter {
  if (memory === null) return { ...fitted!, memory: null };
  const { name, created, ready, job, keep } = memory;
  const { centroid, manifestHash } = (ready ?? job)!;
  const unfitted = { name, hash: null, manifestHash, gain: null, examples: 0, tokens: 0, created, keep };
  return { ...(fitted ?? unfitted), centroid, memory: { ready, job } };
}

/** From which an adapter can be made again for other artifacts. */
export interface KeptExamples {
  examples: readonly Example[];
  /** On which its gain was measured; null: on some of the examples. */
  validation: readonly Example[] | null;
}

/** What became of an adapter that was to be added. */
export type Added = "added" | "taken" | "full" | "erased";

/** Throws why an adapter of this name was not added, or could not be. */
export function requireRoom(room: Added, name: string, param = "name"): void {
  if (room === "added") return;
  if (room === "erased") throw new ServiceError("adapter_not_found", "The tenant was erased while this was made.");
  if (room === "taken") {
    const message = `You have an adapter ${name} already; DELETE /v1/adapters/${name} first.`;
    throw new ServiceError("invalid_request", message, { param });
  }
  throw new ServiceError(
    "adapter_quota_exceeded",
    `You have ${limits.adaptersPerTenant} adapters, the maximum is ${limits.adaptersPerTenant}; delete one first.`,
  );
}

const namePattern = /^[a-z0-9][a-z0-9_-]{0,62}$/;
/** Names with another meaning in `model: "<base>:…"`, for some set of artifacts. */
const reserved = /^(auto|base|nearest|off|static|c\d+)$/;

/** Throws invalid_request for a name that is malformed or reserved. */
export function requireFreeName(name: string, { centroids }: Manifest, param = "name"): void {
  const refuse = (why: string) => invalidRequest(`${param} is ${JSON.stringify(name.slice(0, 80))}; ${why}`, param);
  if (!namePattern.test(name)) {
    throw refuse("it must be 1 to 63 characters of a-z, 0-9, - and _, and begin with a letter or a digit");
  }
  if (reserved.test(name) || centroids.some(({ id }) => id === name))
    throw refuse("that name is a centroid's, or reserved");
}

/** The own adapters that a request names, by name. */
export interface NamedAdapters extends ReadonlyMap<string, OwnAdapter> {
  /** All names that the tenant has, if the request names an unknown one. */
  readonly others?: readonly string[];
  /** Other names of models. */
  readonly aliases?: readonly string[];
}

/** Names that an error lists. */
const shownNames = 8;

/** The tenant's own adapters, for an error message; empty if it has none. */
export function ownNamesText({ others = [] }: NamedAdapters, prefix = ""): string {
  return shownText(
    "your own",
    others.map((name) => prefix + name),
    "GET /v1/adapters",
  );
}

/** Some of the names that there are, for an error message; empty if there are none. */
export function shownText(what: string, names: readonly string[], where: string): string {
  if (names.length === 0) return "";
  const more = names.length > shownNames ? ` and more (${where})` : "";
  return `; ${what}: ${names.slice(0, shownNames).join(", ")}${more}`;
}

/** The part of `model` after the served name; empty if there is none. */
export function suffixOf(model: string | null, { model: { servedAs } }: Manifest): string {
  return model?.startsWith(`${servedAs}:`) ? model.slice(servedAs.length + 1) : "";
}

/** `name` if an own adapter can have it, else null. */
export function ownNameOf(name: string, manifest: Manifest): string | null {
  const isKnown = reserved.test(name) || manifest.centroids.some(({ id }) => id === name);
  return namePattern.test(name) && !isKnown ? name : null;
}

/** Throws backend_unavailable for an adapter whose memory is not made yet. */
export function requireMade(adapter: OwnAdapter): void {
  if (adapter.hash === null && !adapter.memory?.ready) throw unmade(adapter);
}

/** The last try to make an adapter again for the manifest `served`, if it failed. */
export function failedRefit({ refit }: OwnAdapter, served: string): FailedRefit | null {
  return refit?.manifestHash === served ? refit : null;
}

/** Whether an adapter is to be made again for the manifest `served`. */
export function isWaiting(adapter: OwnAdapter, served: string): boolean {
  return adapter.manifestHash !== served && !failedRefit(adapter, served)?.isFinal;
}

/** Why an adapter of artifacts that are gone cannot be used: it is being made again for the manifest `served`, or cannot be. */
export function outdated(adapter: OwnAdapter, served: string): ServiceError {
  const { name, manifestHash } = adapter;
  const failed = failedRefit(adapter, served);
  if (failed?.isFinal) {
    const why = `The adapter ${name} was made for the manifest ${manifestHash}; ${served} is served now, and it cannot be made again: ${failed.error} Delete it and create it again.`;
    return new ServiceError("adapter_outdated", why, { param: "model" });
  }
  const message = `The adapter ${name} is being made again for the manifest ${served}, which is served now (GET /v1/adapters/${name}).`;
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds });
}

/** Seconds after which an adapter may be ready. */
const retryAfterSeconds = 2;

function unmade({ name, memory }: OwnAdapter): ServiceError {
  const { status, builtTokens, tokens, error } = memory?.job ?? {
    status: "failed",
    builtTokens: 0,
    tokens: 0,
    error: null,
  };
  if (status === "failed") {
    const why = `The memory of ${name} could not be made${error === null ? "" : `: ${error}`}; add documents again, or delete it.`;
    return new ServiceError("invalid_request", why, { param: "model" });
  }
  const message = `The memory of ${name} is being made: ${builtTokens} of ${tokens} tokens (GET /v1/adapters/${name}).`;
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds });
}

/** A tenant's own adapters as requests see them: their names, the files and memories that answer, and errors if they cannot. Pure. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import { type Example, type Task, taskOf } from "../../shared/contracts/examples.ts";
import type { AdapterAnswer } from "../../shared/contracts/inference.ts";
import { type ErrorKind, invalidRequest, ServiceError } from "../../shared/errors.ts";
import type { Charge } from "./consumption.ts";

/** What a backend fitted to an adapter's examples. */
export interface FittedParts {
  /** SHA-256 of the tenant's name and the file with these parts, so that no two tenants have the same hash. */
  hash: string;
  /** The manifest it was made for: only the artifacts of this manifest can answer with it. */
  manifestHash: string;
  /** Mean prompt embedding of the examples, of length 1, [P]. */
  centroid: number[];
  /** Measured on held-out examples; null if the parts gained nothing, so that the base is served. */
  gain: AdapterAnswer["gain"];
  examples: number;
  tokens: number;
  /** The task that the examples teach, if they have labels. */
  task?: Task | null;
}

export interface OwnAdapter extends Omit<FittedParts, "hash"> {
  name: string;
  /** Content address of its fitted parts; null if it has only a memory. */
  hash: string | null;
  /** Mean prompt embedding of its documents or, if it has none, of its examples, of length 1, [P]. */
  centroid: number[];
  /** Unix time in seconds. */
  created: number;
  /** null or absent if it has no documents. */
  memory?: OwnMemory | null;
  /** False: its examples and documents are deleted once it is made. */
  keep?: boolean;
  /** Why the last try to make it again for another manifest failed; null or absent if none has. */
  refit?: FailedRefit | null;
}

export interface FailedRefit {
  /** The manifest that the adapter is made again for. */
  manifestHash: string;
  error: string;
  /** No further try is made. */
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

/** A set of documents that backends are to build a memory of. */
export interface MemoryJob extends MemorySet {
  /** `failed`: its documents are deleted, and no further try is made. */
  status: "queued" | "building" | "failed";
  /** Tokens that the backend has finished. */
  builtTokens: number;
  /** Why the last try failed. */
  error: string | null;
  /** Charges of the requests whose documents the job adds. */
  charges: Charge[];
}

/** At least one of the two fields is not null. */
export interface OwnMemory {
  /** The set that answers use. */
  ready: MemorySet | null;
  /** Replaces `ready` when its memory is built. */
  job: MemoryJob | null;
}

/** The set of documents that an adapter has after its job: the job's, unless it failed, or else the ready one. */
export function wantedOf(memory: OwnMemory | null): MemorySet | null {
  if (memory?.job && memory.job.status !== "failed") return memory.job;
  return memory?.ready ?? null;
}

/** The examples of an adapter, from which it can be made again for other artifacts. */
export interface KeptExamples {
  examples: readonly Example[];
  /** The examples that its gain is measured on; null: some of `examples`, held out. */
  validation: readonly Example[] | null;
}

/** Examples as the artifacts of a manifest encode them. */
export interface FitContent {
  manifestHash: string;
  /** Mean prompt embedding of the examples, of length 1, [P]. */
  centroid: number[];
  /** Tokens of all examples, with those for validation. */
  tokens: number;
  examples: KeptExamples;
}

/** The fitted parts that a backend made of `content`. */
export function fittedOf(
  { manifestHash, centroid, tokens, examples: { examples } }: FitContent,
  { hash, kept, gain }: Pick<AdapterAnswer, "hash" | "kept" | "gain">,
): FittedParts {
  const made = { hash, manifestHash, centroid, gain: kept ? gain : null };
  return { ...made, examples: examples.length, tokens, task: taskOf(examples) };
}

/** A refusal as data, because a call of a Durable Object cannot throw a ServiceError. */
export interface Refused {
  kind: ErrorKind;
  message: string;
  param: string | null;
  retryAfterSeconds?: number | null;
}

export function refused(kind: ErrorKind, message: string, param: string | null = null): Refused {
  return { kind, message, param };
}

/** Throws a refusal as the ServiceError that it stands for; null: does nothing. */
export function throwRefusal(refusal: Refused): never;
export function throwRefusal(refusal: Refused | null): void;
export function throwRefusal(refusal: Refused | null): void {
  if (!refusal) return;
  const { kind, message, param, retryAfterSeconds } = refusal;
  throw new ServiceError(kind, message, { param, retryAfterSeconds: retryAfterSeconds ?? undefined });
}

const namePattern = /^[a-z0-9][a-z0-9_-]{0,62}$/;
/** Names that mean something else in `model: "<base>:…"`. Names like `c12` may be centroids of other artifacts. */
const reserved = /^(auto|base|nearest|off|static|c\d+)$/;

/** Throws invalid_request for a name that is malformed or reserved. */
export function requireFreeName(name: string, manifest: Manifest, param = "name"): void {
  const refuse = (why: string) => invalidRequest(`${param} is ${JSON.stringify(name.slice(0, 80))}; ${why}`, param);
  if (!namePattern.test(name)) {
    throw refuse("it must be 1 to 63 characters of a-z, 0-9, - and _, and begin with a letter or a digit");
  }
  if (ownNameOf(name, manifest) === null) throw refuse("that name is a centroid's, or reserved");
}

/** The own adapters that a request names, by name. */
export interface NamedAdapters extends ReadonlyMap<string, OwnAdapter> {
  /** The names of all the tenant's adapters, if the request names one that does not exist. */
  readonly others?: readonly string[];
  /** The aliases of models that the request could name. */
  readonly aliases?: readonly string[];
}

/** Most names that an error message lists. */
const shownNames = 8;

/** The names of the tenant's own adapters as text for an error message; empty if it has none. */
export function ownNamesText({ others = [] }: NamedAdapters, prefix = ""): string {
  return shownText(
    "your own",
    others.map((name) => prefix + name),
    "GET /v1/adapters",
  );
}

/** A list of names for an error message, cut after `shownNames`; empty if there are none. `where`: the route that lists all. */
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

/** Throws backend_unavailable if the adapter's memory is still being built, and invalid_request if it could not be built. */
export function requireMade({ name, hash, memory }: OwnAdapter): void {
  const job = memory?.job;
  if (hash !== null || memory?.ready || !job) return;
  if (job.status === "failed") {
    const why = `The memory of ${name} could not be made: ${job.error}; add documents again, or delete it.`;
    throw new ServiceError("invalid_request", why, { param: "model" });
  }
  const message = `The memory of ${name} is being made: ${job.builtTokens} of ${job.tokens} tokens (GET /v1/adapters/${name}).`;
  throw new ServiceError("backend_unavailable", message, { retryAfterSeconds });
}

/** The last try to make an adapter again for the manifest `served`, if that failed. */
export function failedRefit({ refit }: OwnAdapter, served: string): FailedRefit | null {
  return refit?.manifestHash === served ? refit : null;
}

/** Whether an adapter is to be made again for the manifest `served`. */
export function isWaiting(adapter: OwnAdapter, served: string): boolean {
  return adapter.manifestHash !== served && !failedRefit(adapter, served)?.isFinal;
}

/** The error for an adapter whose artifacts are gone: it is being made again for the manifest `served`, or cannot be made again. */
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

/** Retry-After of an adapter that is not ready, in seconds. */
const retryAfterSeconds = 2;

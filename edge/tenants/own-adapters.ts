/** A tenant's own adapters as requests see them, and the errors if an adapter cannot answer. Pure. P: size of a prompt embedding. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import { type Example, type Task, taskOf } from "../../shared/contracts/examples.ts";
import type { AdapterAnswer } from "../../shared/contracts/inference.ts";
import { type ErrorKind, invalidRequest, ServiceError } from "../../shared/errors.ts";
import type { Charge } from "./consumption.ts";

export interface FittedParts {
  /** SHA-256 of the tenant's name and the file, so that two tenants never have the same hash. */
  hash: string;
  /** The parts can answer only with the artifacts of this manifest. */
  manifestHash: string;
  /** Mean prompt embedding of the examples, of length 1, [P]. */
  centroid: number[];
  /** The gain on held-out examples. null: no gain, so the base answers instead of the parts. */
  gain: AdapterAnswer["gain"];
  examples: number;
  tokens: number;
  task?: Task | null;
}

export interface OwnAdapter extends Omit<FittedParts, "hash"> {
  name: string;
  /** Hash of the fitted parts; null if the adapter has only a memory. */
  hash: string | null;
  /** Mean prompt embedding of the documents or, without documents, of the examples; of length 1, [P]. */
  centroid: number[];
  /** Unix time in seconds. */
  created: number;
  memory?: OwnMemory | null;
  /** false: the adapter's examples and documents are deleted once it is made. */
  keep?: boolean;
  /** The latest try to make the adapter again, if the try failed. */
  refit?: FailedRefit | null;
}

export interface FailedRefit {
  manifestHash: string;
  error: string;
  isFinal: boolean;
}

export interface MemorySet {
  hash: string;
  manifestHash: string;
  documents: number;
  tokens: number;
  bytes: number;
  /** Mean prompt embedding of the documents, of length 1, [P]. */
  centroid: number[];
}

export interface MemoryJob extends MemorySet {
  /** `failed`: the job's documents are deleted, and no further try follows. */
  status: "queued" | "building" | "failed";
  /** Tokens whose keys the backend has computed. */
  builtTokens: number;
  error: string | null;
  charges: Charge[];
}

/** At least one of the two fields is not null. */
export interface OwnMemory {
  /** The documents whose memory answers use. */
  ready: MemorySet | null;
  /** The job that builds the memory of new documents. When the memory is built, the new documents replace `ready`. */
  job: MemoryJob | null;
}

/** The documents that the adapter is to have: the job's, or the ready set if the job failed or is missing. */
export function wantedOf(memory: OwnMemory | null): MemorySet | null {
  if (memory?.job && memory.job.status !== "failed") return memory.job;
  return memory?.ready ?? null;
}

export interface KeptExamples {
  examples: readonly Example[];
  /** The examples on which the gain is measured; null: a held-out part of `examples`. */
  validation: readonly Example[] | null;
}

export interface FitContent {
  manifestHash: string;
  /** Mean prompt embedding of the examples, of length 1, [P]. */
  centroid: number[];
  /** Tokens of all examples, those for validation included. */
  tokens: number;
  examples: KeptExamples;
}

export function fittedOf(
  { manifestHash, centroid, tokens, examples: { examples } }: FitContent,
  { hash, kept, gain }: Pick<AdapterAnswer, "hash" | "kept" | "gain">,
): FittedParts {
  const made = { hash, manifestHash, centroid, gain: kept ? gain : null };
  return { ...made, examples: examples.length, tokens, task: taskOf(examples) };
}

/** An error as data, because a call to a Durable Object cannot throw a ServiceError. */
export interface Refused {
  kind: ErrorKind;
  message: string;
  param: string | null;
  retryAfterSeconds?: number | null;
}

export function refused(kind: ErrorKind, message: string, param: string | null = null): Refused {
  return { kind, message, param };
}

export function throwRefusal(refusal: Refused): never;
export function throwRefusal(refusal: Refused | null): void;
export function throwRefusal(refusal: Refused | null): void {
  if (!refusal) return;
  const { kind, message, param, retryAfterSeconds } = refusal;
  throw new ServiceError(kind, message, { param, retryAfterSeconds: retryAfterSeconds ?? undefined });
}

const namePattern = /^[a-z0-9][a-z0-9_-]{0,62}$/;
/** Names with another meaning in `model: "<base>:…"`. A name such as `c12` may be a centroid's in other artifacts. */
const reserved = /^(auto|base|nearest|off|static|c\d+)$/;

export function requireFreeName(name: string, manifest: Manifest, param = "name"): void {
  const refuse = (why: string) => invalidRequest(`${param} is ${JSON.stringify(name.slice(0, 80))}; ${why}`, param);
  if (!namePattern.test(name)) {
    throw refuse("it must be 1 to 63 characters of a-z, 0-9, - and _, and begin with a letter or a digit");
  }
  if (ownNameOf(name, manifest) === null) throw refuse("that name is a centroid's, or reserved");
}

export interface NamedAdapters extends ReadonlyMap<string, OwnAdapter> {
  /** Names of all the tenant's adapters. Present only if the request names an adapter that does not exist. */
  readonly others?: readonly string[];
  readonly aliases?: readonly string[];
}

const shownNames = 8;

export function ownNamesText({ others = [] }: NamedAdapters, prefix = ""): string {
  const names = others.map((name) => prefix + name);
  return shownText("your own", names, "GET /v1/adapters");
}

/** Names for error messages, cut after `shownNames` names; empty without names. `where`: the route that lists all of them. */
export function shownText(what: string, names: readonly string[], where: string): string {
  if (names.length === 0) return "";
  const more = names.length > shownNames ? ` and more (${where})` : "";
  return `; ${what}: ${names.slice(0, shownNames).join(", ")}${more}`;
}

export function suffixOf(model: string | null, { model: { servedAs } }: Manifest): string {
  return model?.startsWith(`${servedAs}:`) ? model.slice(servedAs.length + 1) : "";
}

export function ownNameOf(name: string, manifest: Manifest): string | null {
  const isKnown = reserved.test(name) || manifest.centroids.some(({ id }) => id === name);
  return namePattern.test(name) && !isKnown ? name : null;
}

/** Throws backend_unavailable if the adapter's memory is still being built, and invalid_request if it cannot be built. */
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

/** The latest try to make an adapter again for the manifest `served`, if that try failed. */
export function failedRefit({ refit }: OwnAdapter, served: string): FailedRefit | null {
  return refit?.manifestHash === served ? refit : null;
}

export function isWaiting(adapter: OwnAdapter, served: string): boolean {
  return adapter.manifestHash !== served && !failedRefit(adapter, served)?.isFinal;
}

/** The error for an adapter of other artifacts: the adapter is being made again for the manifest `served`, or cannot be. */
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

const retryAfterSeconds = 2;

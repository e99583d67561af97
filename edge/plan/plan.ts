/**
 * From a checked request to the sequences that serve it. Pure. Not here: how a conversation becomes a prompt (chat.ts).
 */
import { edgeFilesOfSet } from "../../shared/artifacts/bucket.ts";
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import { type BatchRequest, contractVersion, type SequenceRequest } from "../../shared/contracts/inference.ts";
import type { CompletionRequest } from "../../shared/contracts/openai.ts";
import { type SamplingChanges, samplingWith } from "../../shared/contracts/sampling.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Span } from "../../shared/math/evidence.ts";
import { deriveSeed } from "../../shared/math/sampling.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import type { NamedAdapters } from "../tenants/own-adapters.ts";
import { type Assignment, assign, wishOf } from "./assign.ts";
import { encodePrompts, type TokenBound } from "./encode.ts";
import { type EvidenceTokens, evidenceCount } from "./mixture.ts";

/** What a completion's request and a chat's have in common once they are read. */
export type GenerationRequest = Pick<
  CompletionRequest,
  "model" | "n" | "seed" | "max_tokens" | "echo" | "logprobs" | "sampling" | "chameleon" | "withBlock"
>;

export interface TokenizedPrompt {
  promptIds: number[];
  /** By what it is assigned: the prompt itself where nothing else is said. */
  subjectIds?: number[];
  /** Which of its tokens are evidence; absent: all of them. */
  spans?: Span[];
}

/** One choice of the response and the sequence that makes it. */
export interface PlannedChoice {
  index: number;
  /** Which of the request's prompts it is of. */
  prompt: number;
  /** Its mixture is the sequence's. */
  assignment: Omit<Assignment, "mixture">;
  sequence: SequenceRequest;
}

export interface Plan {
  /** Of the artifacts that it was made with. */
  manifestHash: string;
  /** Hashes of the files that the edge needs of them, so that a cold object reads them at once. */
  edgeFiles: string[];
  /** Prompt-major: the choices of prompt p are p·n to p·n + n − 1. */
  choices: PlannedChoice[];
  /** Each prompt counted once, whatever n is. */
  promptTokens: number;
  tokenizeMs: number;
  assignMs: number;
}

export interface Caller {
  requestId: string;
  tenant: string;
  /** The tenant's own adapters that the request names; absent: none. */
  own?: NamedAdapters;
  /** How long it may wait for its start. */
  deadlineMs?: number | null;
  /** The trace that it is part of, where one is kept. */
  traceparent?: string | null;
  /** uint32, used where the request brings no seed. */
  randomSeed: number;
  now(): number;
}

/** Plans a completion. Throws a ServiceError (400 or 404) for what only the model can tell: unknown model, ids, lengths. */
export function planCompletion(request: CompletionRequest, artifacts: Artifacts, caller: Caller): Plan {
  const prompts = request.prompt ?? [[artifacts.manifest.model.endOfTextId]];
  const bound = contextBound("prompt", "The prompt", artifacts.manifest);
  const read = () => encodePrompts(prompts, artifacts, bound).map((promptIds) => ({ promptIds }));
  return planGeneration(request, read, artifacts, caller);
}

/** The bound on a prompt that the model's context sets. */
export function contextBound(param: string, single: string, { model }: Manifest): TokenBound {
  const { contextTokens, servedAs } = model;
  return { param, single, most: contextTokens, says: `the context of ${servedAs} holds ${contextTokens}` };
}

/** The same for prompts of any source: `read` gives them, each within the context. */
export function planGeneration(
  request: GenerationRequest,
  read: () => TokenizedPrompt[],
  artifacts: Artifacts,
  caller: Caller,
): Plan {
  const { manifest, manifestHash } = artifacts;
  const { adapter, evidence_tokens, compare } = request.chameleon;
  const wish = wishOf(request.model, adapter, manifest, caller.own);
  /** The prompt's text chooses its centroid. */
  const mostEvidence = evidenceBound(evidence_tokens, manifest);
  const started = caller.now();
  const prompts = read();
  const tokenized = caller.now();
  const decisive = prompts.map((prompt) => decisiveTokens(prompt, mostEvidence));
  const assignments = decisive.map(({ subjectIds, evidence }) => assign(subjectIds, wish, artifacts, evidence));
  const assigned = caller.now();

  checkSampling(request.sampling, manifest.model);
  const logprobs = request.logprobs ?? (compare ? 0 : null);
  const sampling: SamplingChanges = { ...request.sampling, ...(logprobs !== null && { logprobs }) };
  const { min_tokens: minTokens } = sampling;
  // Seeds of any size are allowed; 32 bits of them count.
  const seed = request.seed === null ? caller.randomSeed : Number(BigInt.asUintN(32, BigInt(request.seed)));
  const choices: PlannedChoice[] = [];
  for (const [p, { promptIds }] of prompts.entries()) {
    const { mixture, ...assignment } = assignments[p];
    for (let i = 0; i < request.n; i++) {
      const index = choices.length;
      const maxTokens = Math.min(request.max_tokens, manifest.model.contextTokens - promptIds.length);
      const sequence: SequenceRequest = {
        id: `${caller.requestId}-${index}`,
        tenant: caller.tenant,
        promptIds,
        continuedIds: [],
        maxTokens,
        // The seed by the choice's place in its prompt, so that a prompt's texts do not depend on its neighbours.
        sampling: {
          ...sampling,
          seed: deriveSeed(seed, i),
          ...(minTokens !== undefined && { min_tokens: Math.min(minTokens, maxTokens) }),
        },
        ...(caller.deadlineMs && { deadlineMs: caller.deadlineMs }),
        ...(caller.traceparent && { traceparent: caller.traceparent }),
        // Scored once a prompt; its other choices get a copy (prompt-scores.ts).
        promptLogprobs: request.echo && request.logprobs !== null && i === 0,
        compare,
        ...(mixture && { mixture }),
      };
      choices.push({ index, prompt: p, assignment, sequence });
    }
  }
  return {
    manifestHash,
    edgeFiles: edgeFilesOfSet(manifestHash, manifest).files,
    choices,
    promptTokens: prompts.reduce((total, { promptIds }) => total + promptIds.length, 0),
    tokenizeMs: tokenized - started,
    assignMs: assigned - tokenized,
  };
}

/** Tokens of a prompt that may decide, by `chameleon.evidence_tokens`. Throws invalid_request for more than the context. */
function evidenceBound(asked: number | null, { model: { contextTokens, servedAs } }: Manifest): number {
  if (asked === null || asked <= contextTokens) return asked ?? contextTokens;
  throw new ServiceError(
    "invalid_request",
    `Invalid request: chameleon.evidence_tokens is ${asked}; the context of ${servedAs} holds ${contextTokens}.`,
    { param: "chameleon.evidence_tokens" },
  );
}

/** What assigns a prompt and weighs its experts, where no more than its first `most` tokens may. */
function decisiveTokens({ promptIds, subjectIds, spans }: TokenizedPrompt, most: number) {
  const tokens = Math.min(most, promptIds.length);
  const within = spans?.filter(([start]) => start < tokens).map(([start, end]): Span => [start, Math.min(end, tokens)]);
  const evidence: EvidenceTokens = { tokens, ...(within && { spans: within }) };
  return { subjectIds: (subjectIds ?? promptIds).slice(0, Math.max(1, evidenceCount(evidence))), evidence };
}

/** Throws invalid_request for parameters that the model does not allow: unknown token ids, or more tokens than its context. */
function checkSampling(
  sampling: SamplingChanges,
  { vocabularySize, contextTokens, servedAs }: Manifest["model"],
): void {
  const refuse = (param: string, message: string) => {
    throw new ServiceError("invalid_request", `Invalid request: ${message}.`, { param });
  };
  const { logit_bias, stop_token_ids, min_tokens } = samplingWith(sampling);
  for (const [param, ids] of Object.entries({ logit_bias: logit_bias.map(([id]) => id), stop_token_ids })) {
    const unknown = ids.find((id) => id >= vocabularySize);
    if (unknown === undefined) continue;
    refuse(param, `${param} holds the token id ${unknown}; the vocabulary has ${vocabularySize} ids, from 0`);
  }
  if (min_tokens > contextTokens) {
    refuse("min_tokens", `min_tokens is ${min_tokens}; the context of ${servedAs} holds ${contextTokens}`);
  }
}

/** One per adapter that sequences go by (`Assignment.adapter`), the base counting as one; the first choice is in the first. */
export function batchesOf({ choices, manifestHash }: Pick<Plan, "choices" | "manifestHash">): BatchRequest[] {
  const batches = new Map<string | null, BatchRequest>();
  for (const { assignment, sequence } of choices) {
    const { id = null, ownHash = null } = assignment.adapter ?? {};
    const key = ownHash ?? id;
    const batch = batches.get(key);
    if (batch) batch.sequences.push(sequence);
    else {
      const adapter = ownHash === null ? { centroidId: id } : { centroidId: null, adapterHash: ownHash };
      batches.set(key, { version: contractVersion, manifestHash, ...adapter, sequences: [sequence] });
    }
  }
  return [...batches.values()];
}

/**
 * Which tokens a backend sends together. Each read and each write costs the cell's one thread about as much as everything else that is
 * done for a token, which delays the first tokens of other requests.
 */
export const gatheringLimits = {
  /** Streams of a tenant in one cell whose tokens are sent one by one. */
  aloneStreams: 2,
  /** Maximum milliseconds for which a token waits in any further stream; first and last ones never wait. */
  streamMs: 25,
  /** The same for an answer without `stream`: nobody reads its tokens as they come. */
  wholeMs: 250,
};

/** `batch` with the time its tokens may wait, for a request whose tenant has `openStreams` in the cell already. */
export function gathered(batch: BatchRequest, isStream: boolean, openStreams: number): BatchRequest {
  const { aloneStreams, streamMs, wholeMs } = gatheringLimits;
  if (isStream && openStreams < aloneStreams) return batch;
  const gatherMs = isStream ? streamMs : wholeMs;
  return { ...batch, sequences: batch.sequences.map((sequence) => ({ ...sequence, gatherMs })) };
}

/** Turns a checked request into choices and their sequences. Pure, except for the caller's `nearest`. */
import { edgeFilesOfSet } from "../../shared/artifacts/bucket.ts";
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import { type BatchRequest, contractVersion, type SequenceRequest } from "../../shared/contracts/inference.ts";
import type { CompletionRequest } from "../../shared/contracts/openai.ts";
import { type SamplingChanges, samplingWith } from "../../shared/contracts/sampling.ts";
import { invalidRequest } from "../../shared/errors.ts";
import type { Span } from "../../shared/math/evidence.ts";
import { deriveSeed } from "../../shared/math/sampling.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import type { NamedAdapters, OwnAdapter } from "../tenants/own-adapters.ts";
import { type Assignment, assign, embeddingOf, ownCandidatesOf, selectionOf } from "./assign.ts";
import { encodePrompts, requireKnown, type TokenBound, type TokenizedPrompt } from "./encode.ts";
import { type EvidenceTokens, evidenceCount } from "./mixture.ts";
import { retrievalOf } from "./retrieval.ts";

export type GenerationRequest = Omit<CompletionRequest, "prompt" | "stream" | "stream_options" | "best_of" | "suffix">;

export interface PlannedChoice {
  index: number;
  prompt: number;
  /** The mixture is in `sequence`. */
  assignment: Omit<Assignment, "mixture">;
  sequence: SequenceRequest;
}

export interface Plan {
  manifestHash: string;
  /** Hashes of the artifact files that the edge reads, so that a new cell can load all of them at once. */
  edgeFiles: string[];
  /** With n choices for each prompt, choices p·n to p·n + n − 1 belong to prompt p. */
  choices: PlannedChoice[];
  /** uint32 */
  seed: number;
  /** Tokens of all prompts. A prompt counts once, however many choices (`n`) it has. */
  promptTokens: number;
  tokenizeMs: number;
  assignMs: number;
}

export interface Caller {
  requestId: string;
  tenant: string;
  own?: NamedAdapters;
  /** For each of S prompt embeddings [S, P], the nearest own adapters. */
  nearest?(embeddings: Float32Array[]): Promise<OwnAdapter[][]>;
  deadlineMs?: number | null;
  /** uint32, used if the request has no seed. */
  randomSeed: number;
  /** The time that a chat template may show, in milliseconds since 1970; absent: now. */
  writtenMs?: number;
  now(): number;
}

/** Throws a ServiceError (400 or 404) for an unknown model, token id or adapter, or a prompt that is too long. */
export function planCompletion(request: CompletionRequest, artifacts: Artifacts, caller: Caller): Promise<Plan> {
  const { textStart, roles } = artifacts.tokenizer;
  const prompts = request.prompt ?? [textStart.length > 0 ? [...textStart] : [roles.endOfTextId]];
  const bound = contextBound("prompt", "The prompt", artifacts);
  const read = () => encodePrompts(prompts, artifacts, bound).map((promptIds) => ({ promptIds }));
  return planGeneration(request, read, artifacts, caller);
}

export function contextBound(param: string, single: string, { manifest, tokenizer }: Artifacts): TokenBound {
  const { contextTokens, servedAs } = manifest.model;
  const limitText = `the context of ${servedAs} holds ${contextTokens}`;
  return { param, single, maxTokens: contextTokens, begin: tokenizer.textStart, limitText };
}

export async function planGeneration(
  request: GenerationRequest,
  read: () => TokenizedPrompt[],
  artifacts: Artifacts,
  caller: Caller,
): Promise<Plan> {
  const { manifest, manifestHash } = artifacts;
  const { adapter, evidence_tokens, compare, sources } = request.chameleon;
  const selection = selectionOf(request.model, adapter, manifest, caller.own);
  const maxEvidence = evidenceBound(evidence_tokens, manifest);
  const started = caller.now();
  const prompts = read();
  const tokenized = caller.now();
  const decisive = prompts.map((prompt) => decisiveTokens(prompt, maxEvidence));
  const candidates = ownCandidatesOf(selection);
  const embeddings = () => decisive.map(({ subjectIds }) => embeddingOf(subjectIds, artifacts));
  const own = candidates === "nearest" ? ((await caller.nearest?.(embeddings())) ?? []) : prompts.map(() => candidates);
  const assignments = decisive.map(({ subjectIds, evidence }, p) =>
    assign(subjectIds, selection, artifacts, evidence, own[p]),
  );
  const assigned = caller.now();

  checkSampling(request.sampling, manifest.model);
  const promptLogprobs = request.prompt_logprobs;
  const reported = [request.logprobs, promptLogprobs, compare ? 0 : null].filter((one) => one !== null);
  const sampling: SamplingChanges = {
    ...manifest.model.sampling,
    ...request.sampling,
    ...(reported.length > 0 && { logprobs: Math.max(...reported) }),
  };
  const { min_tokens: minTokens } = sampling;
  // Seeds may have any size; their low 32 bits are used.
  const seed = request.seed === null ? caller.randomSeed : Number(BigInt.asUintN(32, BigInt(request.seed)));
  const choices: PlannedChoice[] = [];
  const { contextTokens } = manifest.model;
  for (const [p, prompt] of prompts.entries()) {
    const { promptIds } = prompt;
    const { mixture, ...assignment } = assignments[p];
    const memories = assignment.memories.map(({ id, hash }) => (hash === null ? { centroidId: id } : { hash }));
    const retrieval = retrievalOf(request, prompt, assignment, { contextTokens, tokenizer: artifacts.tokenizer });
    const room = contextTokens - promptIds.length - (retrieval?.tokens ?? 0);
    for (let i = 0; i < request.n; i++) {
      const index = choices.length;
      const maxTokens = Math.min(request.max_tokens, room);
      const sequence: SequenceRequest = {
        id: `${caller.requestId}-${index}`,
        tenant: caller.tenant,
        promptIds,
        continuedIds: [],
        maxTokens,
        // The seed depends on the choice's index within its prompt, so a prompt's answers do not depend on other prompts.
        sampling: {
          ...sampling,
          seed: deriveSeed(seed, i),
          ...(minTokens !== undefined && { min_tokens: Math.min(minTokens, maxTokens) }),
        },
        ...(caller.deadlineMs && { deadlineMs: caller.deadlineMs }),
        // A prompt's other choices get a copy of its scores (answer/prompt-scores.ts).
        promptLogprobs: ((request.echo && request.logprobs !== null) || promptLogprobs !== null) && i === 0,
        compare,
        ...(mixture && { mixture }),
        ...(memories.length > 0 && { memories, sources }),
        ...(retrieval && { retrieval }),
      };
      choices.push({ index, prompt: p, assignment, sequence });
    }
  }
  return {
    manifestHash,
    edgeFiles: edgeFilesOfSet(manifestHash, manifest),
    choices,
    seed,
    promptTokens: prompts.reduce((total, { promptIds }) => total + promptIds.length, 0),
    tokenizeMs: tokenized - started,
    assignMs: assigned - tokenized,
  };
}

/** Throws invalid_request if the request wants more evidence tokens than the context holds. */
function evidenceBound(tokens: number | null, { model: { contextTokens, servedAs } }: Manifest): number {
  if (tokens === null || tokens <= contextTokens) return tokens ?? contextTokens;
  const message = `chameleon.evidence_tokens is ${tokens}; the context of ${servedAs} holds ${contextTokens}`;
  throw invalidRequest(message, "chameleon.evidence_tokens");
}

/** The tokens that decide a prompt's nearest centroids and weigh its experts, all among its first `maxTokens` tokens. */
function decisiveTokens({ promptIds, subjectIds, spans }: TokenizedPrompt, maxTokens: number) {
  const tokens = Math.min(maxTokens, promptIds.length);
  const within = spans?.filter(([start]) => start < tokens).map(([start, end]): Span => [start, Math.min(end, tokens)]);
  const evidence: EvidenceTokens = { tokens, ...(within && { spans: within }) };
  return { subjectIds: (subjectIds ?? promptIds).slice(0, Math.max(1, evidenceCount(evidence))), evidence };
}

/** Throws invalid_request for token ids outside the vocabulary, or if `min_tokens` exceeds the context. */
function checkSampling(sampling: SamplingChanges, model: Manifest["model"]): void {
  const { logit_bias, stop_token_ids, min_tokens } = samplingWith(sampling);
  const biased = logit_bias.map(([id]) => id);
  requireKnown(biased, model, "logit_bias");
  requireKnown(stop_token_ids, model, "stop_token_ids");
  if (min_tokens <= model.contextTokens) return;
  const message = `min_tokens is ${min_tokens}; the context of ${model.servedAs} holds ${model.contextTokens}`;
  throw invalidRequest(message, "min_tokens");
}

/** Groups sequences into micro-batches by `Assignment.adapter`; the key null is the base alone. */
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

/** Backends send several tokens together, because reading and writing one token alone doubles a cell's work for it. */
export const gatheringLimits = {
  /** Number of a tenant's streams in one cell whose tokens are sent at once. */
  ungatheredStreams: 2,
  /** Maximum wait of a token in the tenant's further streams. First and last tokens never wait. */
  streamMs: 25,
  wholeMs: 250,
};

export function withGathering(batch: BatchRequest, isStream: boolean, openStreams: number): BatchRequest {
  const { ungatheredStreams, streamMs, wholeMs } = gatheringLimits;
  if (isStream && openStreams < ungatheredStreams) return batch;
  const gatherMs = isStream ? streamMs : wholeMs;
  return { ...batch, sequences: batch.sequences.map((sequence) => ({ ...sequence, gatherMs })) };
}

/** Turns a checked request into choices and their sequences. Pure but for the caller's `nearest`. */
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
  /** Index of its prompt in the request. */
  prompt: number;
  /** Without the mixture, which the sequence has. */
  assignment: Omit<Assignment, "mixture">;
  sequence: SequenceRequest;
}

export interface Plan {
  manifestHash: string;
  /** Hashes of the edge's files, so that a cold cell can read all at once. */
  edgeFiles: string[];
  /** Choices p·n to p·n + n − 1 belong to prompt p. */
  choices: PlannedChoice[];
  /** uint32 */
  seed: number;
  /** A prompt counts once, whatever `n` is. */
  promptTokens: number;
  tokenizeMs: number;
  assignMs: number;
}

export interface Caller {
  requestId: string;
  tenant: string;
  /** Own adapters that the request names. */
  own?: NamedAdapters;
  /** Own adapters nearest to each of some prompt embeddings [S, P]. */
  nearest?(embeddings: Float32Array[]): Promise<OwnAdapter[][]>;
  /** Maximum milliseconds until every choice has started. */
  deadlineMs?: number | null;
  /** uint32, used if the request has no seed. */
  randomSeed: number;
  /** The time for a chat template, in milliseconds since 1970; absent: now. */
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

/** Plans the prompts that `read` returns. Throws as planCompletion does. */
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
    const memories = assignment.memories.map(({ hash }) => ({ hash }));
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
        // Seeds depend on the choice's index within its prompt, so a prompt's texts do not depend on other prompts.
        sampling: {
          ...sampling,
          seed: deriveSeed(seed, i),
          ...(minTokens !== undefined && { min_tokens: Math.min(minTokens, maxTokens) }),
        },
        ...(caller.deadlineMs && { deadlineMs: caller.deadlineMs }),
        // Only the first choice asks for scores; the others get a copy (answer/prompt-scores.ts).
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

/** Throws invalid_request if the request wants more than the context holds. */
function evidenceBound(tokens: number | null, { model: { contextTokens, servedAs } }: Manifest): number {
  if (tokens === null || tokens <= contextTokens) return tokens ?? contextTokens;
  const message = `chameleon.evidence_tokens is ${tokens}; the context of ${servedAs} holds ${contextTokens}`;
  throw invalidRequest(message, "chameleon.evidence_tokens");
}

/** The tokens that assign a prompt and weigh its experts, all among its first `maxTokens`. */
function decisiveTokens({ promptIds, subjectIds, spans }: TokenizedPrompt, maxTokens: number) {
  const tokens = Math.min(maxTokens, promptIds.length);
  const within = spans?.filter(([start]) => start < tokens).map(([start, end]): Span => [start, Math.min(end, tokens)]);
  const evidence: EvidenceTokens = { tokens, ...(within && { spans: within }) };
  return { subjectIds: (subjectIds ?? promptIds).slice(0, Math.max(1, evidenceCount(evidence))), evidence };
}

/** Throws invalid_request for token ids outside the vocabulary, or `min_tokens` beyond the context. */
function checkSampling(sampling: SamplingChanges, model: Manifest["model"]): void {
  const { logit_bias, stop_token_ids, min_tokens } = samplingWith(sampling);
  const biased = logit_bias.map(([id]) => id);
  requireKnown(biased, model, "logit_bias");
  requireKnown(stop_token_ids, model, "stop_token_ids");
  if (min_tokens <= model.contextTokens) return;
  const message = `min_tokens is ${min_tokens}; the context of ${model.servedAs} holds ${model.contextTokens}`;
  throw invalidRequest(message, "min_tokens");
}

/** Groups sequences into micro-batches by `Assignment.adapter`; sequences of the base alone form one, too. */
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
 * Backends may gather tokens and send them together. A cell has one thread, and reading and writing a token costs as much as all other
 * work for it. So a tenant's unstreamed answers, and all but its first streams, come in larger pieces.
 */
export const gatheringLimits = {
  /** Streams of a tenant in one cell that get tokens at once. */
  ungatheredStreams: 2,
  /** Maximum wait of a token in further streams. First and last tokens never wait. */
  streamMs: 25,
  /** Maximum wait of a token that is not streamed. */
  wholeMs: 250,
};

export function withGathering(batch: BatchRequest, isStream: boolean, openStreams: number): BatchRequest {
  const { ungatheredStreams, streamMs, wholeMs } = gatheringLimits;
  if (isStream && openStreams < ungatheredStreams) return batch;
  const gatherMs = isStream ? streamMs : wholeMs;
  return { ...batch, sequences: batch.sequences.map((sequence) => ({ ...sequence, gatherMs })) };
}

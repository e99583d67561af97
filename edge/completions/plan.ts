/**
 * From a checked request to the sequences that serve it. Pure. Not here: how a conversation becomes a prompt (chat.ts).
 */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import {
  type BatchRequest,
  contractVersion,
  type Sampling,
  type SequenceRequest,
} from "../../shared/contracts/inference.ts";
import type { CompletionRequest } from "../../shared/contracts/openai.ts";
import { ServiceError } from "../../shared/errors.ts";
import { deriveSeed } from "../../shared/math/sampling.ts";
import type { Artifacts } from "../assign/artifacts.ts";
import { type Assignment, assign, wishOf } from "../assign/assign.ts";
import { encodePrompts, type TokenBound } from "../assign/encode.ts";
import type { NamedAdapters } from "../tenants/own-adapters.ts";

/** What a completion's request and a chat's have in common once they are read. */
export type GenerationRequest = Omit<
  CompletionRequest,
  "prompt" | "stream" | "stream_options" | "user" | "best_of" | "suffix"
>;

export interface TokenizedPrompt {
  promptIds: number[];
  /** By what it is assigned: the prompt itself where nothing else is said. */
  subjectIds?: number[];
}

/** One choice of the response and the sequence that makes it. */
export interface PlannedChoice {
  index: number;
  /** Which of the request's prompts it is of. */
  prompt: number;
  assignment: Assignment;
  sequence: SequenceRequest;
}

export interface Plan {
  /** Of the artifacts that it was made with. */
  manifestHash: string;
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
  const wish = wishOf(request.model, request.chameleon.adapter, manifest, caller.own);
  const started = caller.now();
  const prompts = read();
  const tokenized = caller.now();
  const assignments = prompts.map(({ promptIds, subjectIds }) => assign(subjectIds ?? promptIds, wish, artifacts));
  const assigned = caller.now();

  const sampling = samplingOf(request, manifest.model.vocabularySize);
  // Seeds of any size are allowed; 32 bits of them count.
  const seed = request.seed === null ? caller.randomSeed : Number(BigInt.asUintN(32, BigInt(request.seed)));
  const choices: PlannedChoice[] = [];
  for (const [p, { promptIds, subjectIds = promptIds }] of prompts.entries()) {
    for (let i = 0; i < request.n; i++) {
      const index = choices.length;
      const sequence: SequenceRequest = {
        id: `${caller.requestId}-${index}`,
        tenant: caller.tenant,
        promptIds,
        continuedIds: [],
        maxTokens: Math.min(request.max_tokens, manifest.model.contextTokens - promptIds.length),
        // By the choice's place in its prompt, so that a prompt's texts do not depend on its neighbours.
        sampling: { ...sampling, seed: deriveSeed(seed, i) },
        ...(caller.deadlineMs && { deadlineMs: caller.deadlineMs }),
        promptLogprobs: request.echo && request.logprobs !== null,
        compare: request.chameleon.compare,
        ...(request.chameleon.prompt_bias && wearsPromptBias(assignments[p]) && { promptBias: true }),
        ...(wish === "auto" && i === 0 && { assignment: countedAssignment(assignments[p], subjectIds, manifest) }),
      };
      choices.push({ index, prompt: p, assignment: assignments[p], sequence });
    }
  }
  return {
    manifestHash,
    choices,
    promptTokens: prompts.reduce((total, { promptIds }) => total + promptIds.length, 0),
    tokenizeMs: tokenized - started,
    assignMs: assigned - tokenized,
  };
}

/** What backends count of a prompt that chose its centroid by itself. */
function countedAssignment(
  { centroid, similarity }: Assignment,
  subjectIds: readonly number[],
  { embedding }: Manifest,
): SequenceRequest["assignment"] {
  return { centroidId: centroid.id, similarity, tokens: Math.min(subjectIds.length, embedding.prefixTokens) };
}

function wearsPromptBias({ mode, ownHash, centroid }: Assignment): boolean {
  return mode === "adapted" && ownHash === null && (centroid.promptBias ?? 0) > 0;
}

function samplingOf(request: GenerationRequest, vocabularySize: number): Omit<Sampling, "seed"> {
  const unknown = request.logit_bias.find(([id]) => id >= vocabularySize);
  if (unknown) {
    throw new ServiceError(
      "invalid_request",
      `Invalid request: logit_bias holds the token id ${unknown[0]}; the vocabulary has ${vocabularySize} ids, from 0.`,
      { param: "logit_bias" },
    );
  }
  return {
    temperature: request.temperature,
    // The contract's range is open at 0, where only the likeliest token is left.
    topP: Math.max(request.top_p, Number.EPSILON),
    topK: request.top_k,
    minP: request.min_p,
    stop: request.stop,
    logprobs: request.logprobs ?? (request.chameleon.compare ? 0 : null),
    presencePenalty: request.presence_penalty,
    frequencyPenalty: request.frequency_penalty,
    logitBias: request.logit_bias,
  };
}

/** One per centroid, the base counting as one; the first choice is in the first. */
export function batchesOf({ choices, manifestHash }: Pick<Plan, "choices" | "manifestHash">): BatchRequest[] {
  const batches = new Map<string | null, BatchRequest>();
  for (const { assignment, sequence } of choices) {
    const { mode, centroid, ownHash } = assignment;
    const worn = mode === "adapted" ? (ownHash ?? centroid.id) : null;
    const batch = batches.get(worn);
    if (batch) batch.sequences.push(sequence);
    else {
      const adapter = ownHash && worn ? { centroidId: null, adapterHash: ownHash } : { centroidId: worn };
      batches.set(worn, { version: contractVersion, manifestHash, ...adapter, sequences: [sequence] });
    }
  }
  return [...batches.values()];
}

import { type BatchRequest, numericsAgree, type SequenceRequest } from "../../shared/contracts/inference.ts";
import { samplingWith } from "../../shared/contracts/sampling.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { ModelShape } from "../runtime/step.ts";
import type { EngineInfo } from "./messages.ts";

export function sequenceRefusal(
  request: SequenceRequest,
  { contextTokens, vocabularySize }: ModelShape,
): ServiceError | null {
  const { promptIds, continuedIds, maxTokens, sampling, retrieval } = request;
  if (promptIds.length >= contextTokens) {
    return new ServiceError(
      "context_length_exceeded",
      `The prompt has ${promptIds.length} tokens, the context holds ${contextTokens} and needs room for one more.`,
    );
  }
  const { min_tokens, logit_bias, stop_token_ids } = samplingWith(sampling);
  if (min_tokens > maxTokens) {
    return new ServiceError("invalid_request", `min_tokens is ${min_tokens}, the maximum is maxTokens: ${maxTokens}.`);
  }
  const problem = retrievalProblem(request);
  if (problem !== null) return new ServiceError("invalid_request", problem);
  const biased = logit_bias.map(([tokenId]) => tokenId);
  const beyond = [
    ...promptIds,
    ...continuedIds,
    ...biased,
    ...stop_token_ids,
    ...(retrieval?.prefixIds ?? []),
    ...(retrieval?.separatorIds ?? []),
  ].find((tokenId) => tokenId >= vocabularySize);
  if (beyond === undefined) return null;
  return new ServiceError(
    "invalid_request",
    `Token id ${beyond} is out of the vocabulary: ids go up to ${vocabularySize - 1}.`,
  );
}

function retrievalProblem({ retrieval, promptIds, memories, promptLogprobs }: SequenceRequest): string | null {
  if (!retrieval) return null;
  if (!memories) return "Passages are found in memories; the sequence names none.";
  if (promptLogprobs) return "A prompt with passages in it is not scored.";
  const { at, query } = retrieval;
  const tokens = promptIds.length;
  if (query[0] < query[1] && query[1] <= tokens && at <= tokens) return null;
  return `The prompt has ${tokens} tokens; the query is [${query.join(", ")}) of them and passages come before token ${at}.`;
}

/** Throws `numerics_mismatch` if the batch continues tokens of a backend with another numerics fingerprint (`begun`). */
export function requireNumerics(begun: string | null, own: string | null, { sequences }: BatchRequest): void {
  if (numericsAgree(begun, own) || sequences.every(({ continuedIds }) => continuedIds.length === 0)) return;
  throw new ServiceError(
    "numerics_mismatch",
    `The batch continues tokens of a backend with the numerics ${begun}, this backend has ${own}.`,
  );
}

export function unavailable(message: string): ServiceError {
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1 });
}

/** Throws `manifest_mismatch` for another manifest than the engine's. */
export function requireManifest(info: EngineInfo | null, wanted: string): EngineInfo {
  if (!info) throw unavailable("The engine is not ready.");
  if (info.manifestHash === wanted) return info;
  const message = `The call was made for manifest ${wanted}, this backend serves ${info.manifestHash}.`;
  throw new ServiceError("manifest_mismatch", message);
}

export function notFinite(what: string): ServiceError {
  return new ServiceError(
    "generation_failed",
    `The model's result for this sequence is not a number (${what}). It would be the same elsewhere, so it is not tried again.`,
  );
}

/** The edge does not retry `generation_failed`, because an unknown error would recur elsewhere. */
export function faultOf(thrown: unknown): ServiceError {
  if (thrown instanceof ServiceError) return thrown;
  return new ServiceError("generation_failed", "The engine failed on this sequence; the others go on.", {
    cause: thrown,
  });
}

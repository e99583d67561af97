/** Why a sequence is not served, or ends early: what is at fault is that sequence alone. Pure. */
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Adapter } from "../adapters/adapter.ts";
import type { Gpt2Config } from "../runtime/step.ts";

/** The error to refuse a request with; null where it can be served. */
export function sequenceRefusal(
  { promptIds, continuedIds, sampling }: SequenceRequest,
  { contextTokens, vocabularySize }: Gpt2Config,
): ServiceError | null {
  if (promptIds.length >= contextTokens) {
    return new ServiceError(
      "context_length_exceeded",
      `The prompt has ${promptIds.length} tokens, the context holds ${contextTokens} and needs room for one more.`,
    );
  }
  const beyond = [...promptIds, ...continuedIds, ...sampling.logitBias.map(([tokenId]) => tokenId)].find(
    (tokenId) => tokenId >= vocabularySize,
  );
  if (beyond === undefined) return null;
  return new ServiceError(
    "invalid_request",
    `Token id ${beyond} is out of the vocabulary: ids go up to ${vocabularySize - 1}.`,
  );
}

/** No sequence is served now; the caller may try again in a second. */
export function unavailable(message: string): ServiceError {
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1 });
}

/** The adapter needs a pool slot, and the graph was built without a pool. */
export function needsPool({ hash }: Adapter): ServiceError {
  return new ServiceError(
    "adapter_outdated",
    `Adapter ${hash} has directions of its own, and this backend serves none: ADAPTER_SLOTS is 0. Create it again from its examples.`,
  );
}

/** The model computed something that is not a number: `what` is it, by name and value. */
export function notFinite(what: string): ServiceError {
  return new ServiceError(
    "generation_failed",
    `The model's result for this sequence is not a number (${what}). It would be the same elsewhere, so it is not tried again.`,
  );
}

/**
 * The error that ends a sequence for which `thrown` was thrown. An unknown one becomes `generation_failed`, which the
 * edge does not send to another backend: what fails on a sequence's own data here fails there, too, and might do harm.
 */
export function faultOf(thrown: unknown): ServiceError {
  if (thrown instanceof ServiceError) return thrown;
  return new ServiceError("generation_failed", "The engine failed on this sequence; the others go on.", {
    cause: thrown,
  });
}

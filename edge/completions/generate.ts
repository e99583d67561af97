/** Runs a plan: its batches out, the parts of its choices back, as they come. */
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import type { Dispatch } from "../backend/dispatch.ts";
import { merged } from "../backend/frames.ts";
import { Choice, type ChoicePart } from "./choice.ts";
import type { GenerationRequest, Plan } from "./plan.ts";

/**
 * Ends when every choice is done. Throws the ServiceError of the first sequence that fails: a sequence that its backend
 * broke off could be dispatched again from here, its tokens so far as `continuedIds`.
 */
export async function* generate(
  plan: Plan,
  request: GenerationRequest,
  tokenizer: Tokenizer,
  dispatch: Dispatch,
  signal: AbortSignal,
): AsyncGenerator<ChoicePart, void> {
  const { echo, logprobs } = request;
  const options = { echo, logprobs, compare: request.chameleon.compare };
  const choices = new Map(
    plan.choices.map((planned) => [planned.sequence.id, new Choice(planned, tokenizer, options)]),
  );
  const sources = await Promise.all(plan.batches.map((batch) => dispatch(batch, signal)));
  for await (const frame of merged(sources)) yield choices.get(frame.id)!.push(frame);
}

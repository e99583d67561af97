import type { ChatMessage } from "../../shared/contracts/chat.ts";
import { type ClassifyInput, classifyRequestSchema } from "../../shared/contracts/classify.ts";
import type { ClassifyResponse } from "../../shared/contracts/classify-response.ts";
import { limits } from "../../shared/contracts/limits.ts";
import type { ChatResponse } from "../../shared/contracts/responses.ts";
import { invalidRequest } from "../../shared/errors.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { interrupted } from "../cell/cell-request.ts";
import { tokenizedChat } from "../plan/chat.ts";
import { encodePrompts, type TokenizedPrompt } from "../plan/encode.ts";
import { answerEnd } from "../plan/examples.ts";
import { type Branch, branchesOf, labelProbabilities } from "../plan/labels.ts";
import { contextBound, planGeneration } from "../plan/plan.ts";
import type { OwnAdapter } from "../tenants/own-adapters.ts";
import { readBody } from "./body.ts";
import { answerFromCell, planned } from "./completions.ts";
import type { RouteHandler } from "./dependencies.ts";

export const classify: RouteHandler = async (c, dependencies) => {
  dependencies.wakeCell(c.get("access").tenant, c.get("region"));
  const { input, generation, ...request } = await readBody(c, dependencies, classifyRequestSchema);
  if (generation.chameleon.retrieve !== null) {
    const message = "chameleon.retrieve is for completions and chats; a label is told by the text alone";
    throw invalidRequest(message, "chameleon.retrieve");
  }
  const { plan: known, artifacts } = await planned(c, dependencies, generation, async (set, caller) => {
    const { tokenizer, manifest } = set;
    const taught = caller.own?.values().find(({ hash }) => hash !== null) ?? null;
    const ownLabels = taught?.task?.labels ?? null;
    const labels = request.labels ?? ownLabels;
    if (!labels) {
      const message = "labels is absent; only an adapter of your own whose examples have few answers knows labels";
      throw invalidRequest(message, "labels");
    }
    const isAsked = typeof input[0] === "string" && !taught;
    // Examples mostly teach labels with a space before, which a caller leaves out.
    const asTaught = (label: string) => {
      if (!ownLabels || ownLabels.includes(label)) return label;
      return ownLabels.find((one) => one.trim() === label.trim()) ?? label;
    };
    const continuations = labels.map((label) => (isAsked ? ` ${label.trim()}` : asTaught(label)));
    const branches = branchesOf(
      continuations.map((label) => tokenizer.encode(label, manifest.model.contextTokens)),
      answerEnd(set),
    );
    const rows = input.length * branches.length;
    if (rows > limits.choicesPerRequest) {
      const message = `input × places where labels part is ${input.length} × ${branches.length}, the maximum is ${limits.choicesPerRequest}`;
      throw invalidRequest(message, "input");
    }
    const read = () => {
      const prompts = input.map((one) => promptOf(putTo(taught, one, labels), set, caller.writtenMs ?? caller.now()));
      return prompts.flatMap((prompt) => branches.map(({ prefixIds }) => continued(prompt, prefixIds)));
    };
    return { labels, branches, plan: await planGeneration(generation, read, set, caller) };
  });
  const { labels, branches, plan } = known;
  for (const [i, { sequence }] of plan.choices.entries()) {
    const ids = branches[i % branches.length].next.map(({ id }) => id);
    // The bias makes all tokens except `ids` improbable, so the probabilities of `ids` sum to 1.
    sequence.sampling.logit_bias = ids.map((id) => [id, limits.logitBiasMagnitude]);
    sequence.sampling.logprobs = ids.length;
  }

  const asGenerated = { ...generation, stream: false, stream_options: null };
  const response = await answerFromCell(c, dependencies, { request: asGenerated, plan, artifacts, form: "chat" });
  const answered = await response.json<ChatResponse>().catch((thrown) => {
    throw interrupted(thrown);
  });
  const data = input.map((_, index) => {
    const choices = answered.choices.slice(index * branches.length, (index + 1) * branches.length);
    const chosen = choices.map((choice, b) => chosenOf(choice, branches[b], artifacts));
    const probabilities = labelProbabilities(branches, chosen, labels.length);
    const [first, second] = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
    return {
      index,
      label: labels[first],
      margin: probabilities[first] - probabilities[second],
      probabilities: Object.fromEntries(labels.map((label, l) => [label, probabilities[l]])),
      ...(choices[0].chameleon && { chameleon: choices[0].chameleon }),
    };
  });
  const { model, usage, system_fingerprint } = answered;
  const classified = { object: "list", model, data, usage: usage!, system_fingerprint } satisfies ClassifyResponse;
  return c.json(classified, 200, { "server-timing": response.headers.get("server-timing") ?? "" });
};

/** Formats a text like the adapter's labelled examples. Without such an adapter, asks a question that lists the labels. */
function putTo(taught: OwnAdapter | null, input: ClassifyInput, labels: readonly string[]): ClassifyInput {
  if (typeof input !== "string") return input;
  if (!taught) return question(input, labels);
  const { system } = taught.task ?? {};
  if (system === undefined) return input;
  const text: ChatMessage = { role: "user", content: input };
  return system === null ? [text] : [{ role: "system", content: system }, text];
}

function promptOf(input: ClassifyInput, artifacts: Artifacts, nowMs: number): TokenizedPrompt {
  if (typeof input !== "string") return tokenizedChat({ messages: input }, artifacts, nowMs);
  const [promptIds] = encodePrompts([input], artifacts, contextBound("input", "A text of input", artifacts));
  return { promptIds };
}

/** With a plain-text question, the base model labelled 22 of 26 texts right; with a chat, only 11 to 17. */
function question(text: string, labels: readonly string[]): string {
  return `Labels: ${labels.map((label) => label.trim()).join(", ")}\n\nText: ${text}\nLabel:`;
}

/** Appends tokens of a label. Only the prompt's own tokens assign the prompt and weigh the experts. */
function continued(prompt: TokenizedPrompt, prefixIds: readonly number[]): TokenizedPrompt {
  if (prefixIds.length === 0) return prompt;
  const { promptIds, subjectIds = promptIds, spans = [[0, promptIds.length]] } = prompt;
  return { promptIds: [...promptIds, ...prefixIds], subjectIds, spans };
}

/** Probabilities of a branch's next tokens (plan/labels.ts). Throws an Error if the answer lacks one of these tokens. */
function chosenOf({ logprobs }: ChatResponse["choices"][number], { next }: Branch, { tokenizer }: Artifacts): number[] {
  const top = logprobs?.content?.[0].top_logprobs ?? [];
  const byBytes = new Map(top.map(({ bytes, logprob }) => [String(bytes), Math.exp(logprob)]));
  return next.map(({ id }) => {
    const probability = byBytes.get(String([...tokenizer.pieceOf(id)]));
    if (probability === undefined) throw new Error(`the backend gave no probability of token ${id}`);
    return probability;
  });
}

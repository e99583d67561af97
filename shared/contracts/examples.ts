/** Examples for an adapter: a text, a prompt with its completion, or a chat in OpenAI's fine-tuning format. */
import { type ChatMessage, messagesIn } from "./chat.ts";
import { kindOf } from "./fields.ts";
import { limits } from "./limits.ts";

/** An adapter learns a string, a completion, or a chat's last message. The last message must be the assistant's. */
export type Example = string | { prompt: string; completion: string } | { messages: ChatMessage[] };

export const exampleForms = "a string, {prompt, completion} or {messages}";

/** Returns a fault if the value is no example. `at`: path of the value in the request. Ignores unknown fields. */
export function readExample(value: unknown, at: string): Example | { fault: string } {
  if (typeof value === "string") return value;
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return { fault: `${at} is ${kindOf(value)}; it must be ${exampleForms}` };
  }
  const { prompt, completion, messages } = value as Record<string, unknown>;
  if (typeof prompt === "string" && typeof completion === "string") {
    const empty = prompt === "" ? "prompt" : completion === "" ? "completion" : null;
    return empty === null ? { prompt, completion } : { fault: `${at}.${empty} is empty` };
  }
  if (messages === undefined) return { fault: `${at} must be ${exampleForms}` };
  const read = messagesIn(messages, `${at}.messages`);
  if ("fault" in read) return { fault: read.fault };
  const last = read.messages.at(-1)!;
  if (last.role !== "assistant" || last.content === "") {
    return { fault: `the last entry of ${at}.messages must be the assistant's, and not empty: it is what is learnt` };
  }
  return read.messages.length > 1 ? read : { fault: `${at}.messages has no message before the assistant's` };
}

export interface Task {
  labels: string[];
  /** System message before each text; null: no system message. Absent: the examples are prompts, not chats. */
  system?: string | null;
}

/** Returns null unless all examples have the same form and a label has two examples on average. */
export function taskOf(examples: readonly Example[]): Task | null {
  const asked = examples.map(askedOf);
  const [first] = asked;
  if (!first || asked.some((one) => one === null || one.system !== first.system)) return null;
  const labels = [...new Set(asked.map((one) => one!.answer))];
  const areLabels = labels.every((label) => label.trim() !== "" && label.length <= limits.classifyLabelCharacters);
  if (!areLabels || labels.length < 2 || labels.length > limits.classifyLabels) return null;
  if (labels.length * 2 > examples.length) return null;
  return first.system === undefined ? { labels } : { labels, system: first.system };
}

function askedOf(example: Example): { answer: string; system?: string | null } | null {
  if (typeof example === "string") return null;
  if ("prompt" in example) return { answer: example.completion };
  const { messages } = example;
  const roles = messages.map(({ role }) => role).join();
  const answer = messages.at(-1)!.content;
  if (roles === "user,assistant") return { answer, system: null };
  return roles === "system,user,assistant" ? { answer, system: messages[0].content } : null;
}

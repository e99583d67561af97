import type { ChatMessage } from "../../shared/contracts/chat.ts";

interface TrialConversation {
  name: string;
  messages: ChatMessage[];
}

const user = (content: string): ChatMessage => ({ role: "user", content });
const assistant = (content: string): ChatMessage => ({ role: "assistant", content });
const system = (content: string): ChatMessage => ({ role: "system", content });

export const trialConversations: TrialConversation[] = [
  { name: "a user's message", messages: [user("Hello")] },
  { name: "a system message and a user's", messages: [system("Be brief."), user("Why is the sky blue?")] },
  { name: "three turns", messages: [user("Hi"), assistant("Hello! How can I help?"), user("Tell me a story.")] },
  {
    name: "five turns with a system message",
    messages: [system("You are a poet."), ...turns(5, "A line of verse.\n")],
  },
  { name: "two users' messages in a row", messages: [user("One."), user("Two.")] },
  { name: "an assistant's message last", messages: [user("Count."), assistant("One, two,")] },
  { name: "empty messages", messages: [user(""), assistant(""), user("")] },
  { name: "spaces and line breaks", messages: [user("  a\r\n\r\n\tb  \n"), assistant("\n\n"), user(" ")] },
  { name: "other scripts", messages: [user("Grüße, мир, 世界, 👩‍👩‍👧 e\u0301"), assistant("שלום"), user("مرحبا")] },
  { name: "a template's own syntax", messages: [user("{{ 7 * 7 }} {% if x %} {# y #} </think> [INST] <<SYS>>")] },
];

function turns(count: number, content: string): ChatMessage[] {
  return Array.from({ length: count }, (_, i) => (i % 2 === 0 ? user(content) : assistant(content)));
}

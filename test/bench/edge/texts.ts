import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import { read } from "../../support/project.ts";

const files = ["README.md", "shared/artifacts/FORMAT.md", "edge/API.md", "CHANGELOG.md"];

/** Each text has about `tokens` tokens. */
export function benchTexts(tokenizer: Tokenizer, tokens: number, count: number): string[] {
  const ids = files.flatMap((file) => tokenizer.encode(read(file)));
  const stride = Math.floor((ids.length - tokens) / count);
  return Array.from({ length: count }, (_, i) => tokenizer.decode(ids.slice(i * stride, i * stride + tokens)));
}

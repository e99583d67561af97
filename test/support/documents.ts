/** The project's documents, and the commands in them. */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { read, root } from "./project.ts";

/** False in an unpacked archive, where no file is tracked. */
export const isCheckout = existsSync(`${root}/.git`);

export function documents(): string[] {
  const args = ["ls-files", "--cached", "--others", "--exclude-standard", "*.md"];
  const output = execFileSync("git", args, { cwd: root, encoding: "utf8" });
  return [...new Set(output.split("\n"))].filter((file) => file !== "" && existsSync(path.join(root, file)));
}

export function blocks(file: string, language: string): string[] {
  const fences = read(file).matchAll(new RegExp(`^( *)\`\`\`${language}\n(.*?)\n *\`\`\`$`, "gms"));
  return [...fences].map(([, indentation, block]) => block.replaceAll(new RegExp(`^${indentation}`, "gm"), ""));
}

/** The commands in a file's shell blocks, one per line, without comments. An indented line continues the previous line. */
export function commands(file: string): string[] {
  return blocks(file, "sh")
    .flatMap((block) => block.replaceAll(/\n +/g, " ").split("\n"))
    .map((line) => line.replace(/ {2,}#.*$/, "").trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
}

/** test/commands/readme.test.ts runs every command of these documents, in order. */
export const executedDocuments = ["README.md", "infra/docs/start.md", "infra/docs/guides.md"];

/** Commands in running text, between backticks: `npm run publish`. Arguments may be missing. */
export function mentionedCommands(file: string): string[] {
  const prose = read(file).replaceAll(/^ *```.*?^ *```$/gms, "");
  return [...prose.matchAll(/`([^`]+)`/g)]
    .map(([, span]) => span.replaceAll(/\s+/g, " "))
    .filter((span) => /^([A-Z_]+=\S+ )*(npm|npx|wrangler|chameleon) [a-z-]/.test(span));
}

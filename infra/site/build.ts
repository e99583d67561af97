/** Builds the documents site with VitePress, without a network. A dead link fails the build. */
import { execFile } from "node:child_process";
import { cp, glob, mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { promisify } from "node:util";
import { pages, sections } from "./pages.ts";
import { type ReferencePage, referencePages } from "./reference.ts";

const root = path.join(import.meta.dirname, "../..");
const work = path.join(root, ".cache/site");
export const siteFolder = path.join(root, "edge/public/docs/site");
const styleFile = path.join(import.meta.dirname, "style.css");
const homePage = "infra/docs/index.md";
const siteTitle = "Chameleon Edge";
const siteDescription = "A small language model that adapts to your text, behind OpenAI's API";
const icon =
  "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Ccircle cx='16' cy='16' r='14' fill='%230b6e5a'/%3E%3Ccircle cx='20' cy='13' r='6' fill='%23fff'/%3E%3Ccircle cx='21' cy='13' r='3' fill='%23111'/%3E%3C/svg%3E";

export async function buildSite(): Promise<void> {
  // Anchors are made as on GitHub, so that links work on GitHub and on the site.
  const config = `import { anchorOf } from ${JSON.stringify(path.join(import.meta.dirname, "anchors.mjs"))};
export default { ...${JSON.stringify(siteConfig(), null, 2)}, markdown: { anchor: { slugify: anchorOf } } };
`;
  const theme = `export { default } from "vitepress/theme";\nimport ${JSON.stringify(styleFile)};\n`;
  await rm(work, { recursive: true, force: true });
  const write = async (name: string, text: string) => {
    await mkdir(path.dirname(path.join(work, name)), { recursive: true });
    await writeFile(path.join(work, name), text);
  };
  const pageOfFile = new Map(pages.map(({ path, file }) => [file, path]));
  const images = new Set<string>();
  const read = async (file: string) =>
    siteLinks(await readFile(path.join(root, file), "utf8"), file, (linked) => pageOfFile.get(linked), images);
  await write("index.md", await read(homePage));
  for (const { path: page, file, code } of pages) {
    // A reference page is a wide table, without an outline beside it.
    const wide = async (name: ReferencePage) =>
      `---\naside: false\npageClass: reference\n---\n\n${await referencePages[name]()}`;
    await write(`${page}.md`, code ? await wide(code) : await read(file));
  }
  await write("public/llms.txt", llmsText());
  await write(".vitepress/config.mjs", config);
  await write(".vitepress/theme/index.mjs", theme);
  for (const image of images) {
    await cp(path.join(root, image), path.join(work, "public/images", path.basename(image)));
  }
  await symlink(path.join(root, "node_modules"), path.join(work, "node_modules"));
  const command = path.join(
    path.dirname(createRequire(import.meta.url).resolve("vitepress/package.json")),
    "bin/vitepress.js",
  );
  try {
    await promisify(execFile)(process.execPath, [command, "build", work], { cwd: work });
  } catch (cause) {
    const { stdout, stderr } = cause as { stdout: string; stderr: string };
    throw new Error(`the documents site cannot be built:\n${stdout}${stderr}`, { cause });
  }
  const output = path.join(work, ".vitepress/dist");
  const names = await Array.fromAsync(glob("**/*.*", { cwd: output }));
  await writeFile(path.join(output, "files.json"), JSON.stringify(names.sort()));
  await rm(siteFolder, { recursive: true, force: true });
  await mkdir(path.dirname(siteFolder), { recursive: true });
  await rename(output, siteFolder);
}

/** The site's index for language models (llmstxt.org). */
function llmsText(): string {
  const lists = sections.map(
    ({ title, pages }) =>
      `## ${title}\n\n${pages.map(({ title, path }) => `- [${title}](/docs/${path})`).join("\n")}\n`,
  );
  return `# ${siteTitle}\n\n> ${siteDescription}\n\n${lists.join("\n")}`;
}

function siteConfig(): object {
  return {
    title: siteTitle,
    description: siteDescription,
    base: "/docs/",
    cleanUrls: true,
    head: [["link", { rel: "icon", href: icon }]],
    themeConfig: {
      search: { provider: "local" },
      outline: { level: [2, 3] },
      nav: [
        { text: "Start", link: "/start" },
        { text: "API", link: "/reference/api" },
        { text: "Try the API", link: "/api", target: "_self" },
      ],
      sidebar: sections.map(({ title, pages }) => ({
        text: title,
        items: pages.map(({ title, path }) => ({ text: title, link: `/${path}` })),
      })),
    },
  };
}

/** Matches code, links and images. Links in code stay unchanged. Labels may hold code. */
const codeOrLink = /^```.*?^```$|(!?)\[((?:`[^`\n]+`|[^[\]`])*)\]\(([^)\s]+)\)|`[^`\n]+`/gms;

/** Rewrites relative links for the site. A link to a file that is no page becomes its label. Adds the files of images to `images`. */
export function siteLinks(
  markdown: string,
  file: string,
  pageOf: (file: string) => string | undefined,
  images: Set<string>,
): string {
  return markdown.replace(codeOrLink, (whole, bang?: string, label?: string, target?: string) => {
    if (target === undefined || /^(https?:|mailto:|#)/.test(target)) return whole;
    const [name, heading] = target.split("#");
    const linked = path.posix.join(path.posix.dirname(file), name);
    if (bang !== "") {
      images.add(linked);
      return `![${label}](/images/${path.basename(linked)})`;
    }
    const page = pageOf(linked);
    if (page === undefined) return label ?? "";
    return `[${label}](/${page}${heading === undefined ? "" : `#${heading}`})`;
  });
}

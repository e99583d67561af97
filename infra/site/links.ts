/** Links of the project's Markdown, as the site needs them. Pure. */
import path from "node:path/posix";

/**
 * Rewrites the relative links and images of a file: to another page by its path on the site, to an image by its path
 * below /docs/images/. A link to any other file keeps its text alone, since the site holds no code.
 * `pageOf` answers with a page's path by the file it is made of; `images` collects the files of images.
 */
export function siteLinks(
  markdown: string,
  file: string,
  pageOf: (file: string) => string | undefined,
  images: Set<string>,
): string {
  // Code is no Markdown: the odd parts of a split by code blocks and spans.
  return markdown
    .split(/(^```.*?^```$|`[^`\n]+`(?!\]\())/ms)
    .map((part, i) => (i % 2 === 1 ? part : inText(part)))
    .join("");

  function inText(text: string): string {
    return text.replace(/(!?)\[([^\]]*)\]\(([^)\s]+)\)/g, (whole, bang: string, label: string, target: string) => {
      if (/^(https?:|mailto:|#)/.test(target)) return whole;
      const [name, heading] = target.split("#");
      const linked = path.normalize(path.join(path.dirname(file), name));
      if (bang !== "") {
        images.add(linked);
        return `![${label}](/images/${path.basename(linked)})`;
      }
      const page = pageOf(linked);
      if (page === undefined) return label;
      return `[${label}](/${page}${heading === undefined ? "" : `#${heading}`})`;
    });
  }
}

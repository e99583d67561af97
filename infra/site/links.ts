/** Links of the project's Markdown, as the site needs them. Pure. */
import path from "node:path/posix";

/** Blocks and spans of code, and links and images, whose labels may hold code: at each place what begins first. */
const codeOrLink = /^```.*?^```$|(!?)\[((?:`[^`\n]+`|[^[\]`])*)\]\(([^)\s]+)\)|`[^`\n]+`/gms;

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
  return markdown.replace(codeOrLink, (whole, bang?: string, label?: string, target?: string) => {
    if (target === undefined || /^(https?:|mailto:|#)/.test(target)) return whole;
    const [name, heading] = target.split("#");
    const linked = path.normalize(path.join(path.dirname(file), name));
    if (bang !== "") {
      images.add(linked);
      return `![${label}](/images/${path.basename(linked)})`;
    }
    const page = pageOf(linked);
    if (page === undefined) return label ?? "";
    return `[${label}](/${page}${heading === undefined ? "" : `#${heading}`})`;
  });
}

/** Targets of links in a page's HTML that are neither absolute nor of the page itself. VitePress checks only those to pages. */
export function relativeLinks(html: string): string[] {
  return [...html.matchAll(/<a\b[^>]*\shref="([^"]*)"/g)]
    .map(([, target]) => target)
    .filter((target) => !/^(\/|#|https?:|mailto:)/.test(target));
}

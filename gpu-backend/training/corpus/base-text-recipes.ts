/**
 * What of the embedded base's training text packages still bring, besides the corpora of the adapters: to measure how much
 * of a corpus the base has seen. Not here, because no package has it: the first MB of WikiText-2's training text.
 */
import { debian, filesOf, pagesOf, type Recipe, textsOf } from "./recipe.ts";

const licence = "each document's own";

export const baseTextRecipes: Record<string, Recipe> = {
  foldoc: {
    ...{ role: "base", what: "Free On-line Dictionary of Computing", licence: "GFDL-1.2" },
    packages: [debian("dict-foldoc")],
    documentsOf: (folder) => textsOf(folder, "usr/share/dictd/foldoc.dict.dz"),
  },
  "git-manual": {
    ...{ role: "base", what: "git's manual", licence: "GPL-2.0" },
    packages: [debian("git-doc")],
    documentsOf: async (folder) => pagesOf(await filesOf(folder, "usr/share/doc/git-doc/**/*.html")),
  },
  "manual-pages": {
    ...{ role: "base", what: "manual pages of the system and its library", licence },
    packages: [debian("manpages"), debian("manpages-dev")],
    documentsOf: async (...folders) => {
      const pages = await Promise.all(folders.map((folder) => textsOf(folder, "usr/share/man/man*/*.gz")));
      return pages.flat().map(withoutRequests);
    },
  },
  "debian-manuals": {
    ...{ role: "base", what: "Debian's manuals and FAQ", licence },
    packages: [debian("debian-faq"), debian("debian-policy"), debian("developers-reference")],
    documentsOf: async (...folders) => {
      const pages = await Promise.all(
        folders.map(async (folder) => pagesOf(await filesOf(folder, "usr/share/**/*.html"))),
      );
      return pages.flat();
    },
  },
};

/** A manual page without comments and the marks of its formatter. */
function withoutRequests(roff: string): string {
  return roff
    .replaceAll(/^[.']\\".*$/gm, "")
    .replaceAll(/^\.[A-Z]+ ?/gm, "")
    .replaceAll(/\\f./g, "")
    .replaceAll("\\-", "-");
}

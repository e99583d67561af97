/**
 * Families of corpora: text of one kind, such as one manual in several languages. Calibration leaves them out one at a time,
 * so a family must not be spread over what is left out and what is trained on.
 */

export interface Family {
  name: string;
  /** Names of its corpora. */
  corpora: string[];
}

/** With fewer families too little text is left to say what unknown text is like. */
export const fewestFamilies = 3;

/** Parses `NAME=CORPUS,CORPUS`. Throws an Error for anything else. */
export function parseFamily(argument: string): Family {
  const [, name, list] = /^([\w.-]+)=([^=]+)$/.exec(argument) ?? [];
  const corpora = (list ?? "").split(",").filter((corpus) => corpus !== "");
  if (!name || corpora.length === 0) throw new Error(`family ${argument}: expected NAME=CORPUS,CORPUS`);
  return { name, corpora };
}

/**
 * The families of some corpora: the given ones, and for every other corpus the one that its name says: names that are the same
 * before their last `-` (`manual-french`, `manual-spanish`) are one family. Throws an Error where a given family names a
 * corpus that is not there, or that another family has.
 */
export function familiesOf(corpora: readonly string[], given: readonly Family[]): Family[] {
  const taken = new Set<string>();
  for (const family of given) {
    for (const corpus of family.corpora) {
      if (!corpora.includes(corpus)) throw new Error(`family ${family.name}: no corpus is called ${corpus}`);
      if (taken.has(corpus)) throw new Error(`family ${family.name}: ${corpus} is in another family`);
      taken.add(corpus);
    }
  }
  const others = Map.groupBy(
    corpora.filter((corpus) => !taken.has(corpus)),
    (corpus) => corpus.replace(/-[^-]*$/, ""),
  );
  return [
    ...given,
    ...[...others].map(([stem, members]) => ({ name: members.length > 1 ? stem : members[0], corpora: members })),
  ];
}

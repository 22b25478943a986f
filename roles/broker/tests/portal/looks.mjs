// Sets the broker up, then opens every page in one of the sizes: takes its picture, runs axe, listens to
// the console.

import { readFileSync } from "node:fs";

// In the dark and on the narrowest screen only what these change is asked again.
const ALL = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const RULES = { light: ALL, dark: ["color-contrast"], narrow: ALL, tiny: ["target-size"] };
const SIZES = {
  light: { colorScheme: "light", viewport: { width: 1360, height: 900 } },
  dark: { colorScheme: "dark", viewport: { width: 1360, height: 900 } },
  narrow: { colorScheme: "light", viewport: { width: 390, height: 844 }, hasTouch: true },
  tiny: { colorScheme: "dark", viewport: { width: 320, height: 640 }, hasTouch: true },
};

export default async ({ browser, args, picture, require }) => {
  const axe = readFileSync(require.resolve("axe-core"), "utf8");
  const problems = [];
  const { size } = args;
  const options = SIZES[size];
  let at = "";
  const note = (text) => problems.push(`${at} (${size}): ${text}`);
  const open = async (state) => {
    const context = await browser.newContext({ ...options, storageState: state, ignoreHTTPSErrors: true });
    const page = await context.newPage();
    page.on("pageerror", (error) => note(`error ${error}`));
    page.on("console", (message) => {
      const expected = /status of (404|422|503)/.test(message.text());
      if (!expected && ["error", "warning"].includes(message.type())) note(message.text());
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(args.url)) note(`a request to ${request.url()}`);
    });
    return page;
  };
  const look = async (page, name) => {
    at = name;
    for (const closed of await page.locator("details.more:not([open]) > summary").all()) await closed.click();
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (wide > 0) note(`is ${wide} px wider than the window`);
    // At the top the narrow screen's bar lies over nothing.
    await page.evaluate(() => (document.activeElement?.blur(), scrollTo(0, 0)));
    await page.screenshot({ path: picture(`portal-${name}-${size}`), fullPage: true });
    await page.evaluate(axe);
    const { violations } = await page.evaluate((rules) => axe.run({ runOnly: rules }), RULES[size]);
    for (const { id, nodes } of violations) {
      note(`axe: ${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join(" | ").slice(0, 600)}`);
    }
  };

  const stranger = await open();
  await stranger.goto(args.setUp);
  await stranger.getByLabel("Your name").waitFor();
  await look(stranger, "set-up");
  await stranger.getByLabel("Your name").fill("Ada Lovelace");
  await stranger.getByLabel("E-mail").fill("ada@example.org");
  await stranger.getByLabel("Password").fill("short");
  await stranger.locator("input[type=password]").evaluate((input) => input.removeAttribute("minlength"));
  await stranger.getByRole("button", { name: "Create and sign in" }).click();
  await stranger.getByText("at least 12 characters", { exact: false }).first().waitFor();
  await look(stranger, "set-up-wrong");
  await stranger.getByLabel("Password").fill(args.password);
  await stranger.getByRole("button", { name: "Create and sign in" }).click();
  await stranger.waitForURL("**/devices");
  const storageState = await stranger.context().storageState();
  await stranger.context().clearCookies();
  for (const [name, path] of [["sign-in", "/sign-in"], ["join-link", "/join#key.pin"], ["invitation-link", "/invitation"]]) {
    await stranger.goto(args.url + path);
    await look(stranger, name);
  }
  await stranger.goto(`${args.url}/sign-in`);
  await stranger.getByRole("button", { name: "Continue with Example" }).click();
  await stranger.getByText("doesn't work at the moment", { exact: false }).waitFor();
  await look(stranger, "sign-in-provider-down");
  await stranger.context().close();

  const page = await open(storageState);
  for (const [name, path] of args.pages) {
    at = name;
    await page.goto(args.url + path);
    await look(page, name);
  }
  if (size === "light" || size === "narrow") {
    await page.goto(`${args.url}/a/home/join`);
    await page.getByRole("button", { name: "Create join link" }).click();
    await page.getByText("Your join link").waitFor();
    await look(page, "join-made");
    await page.goto(`${args.url}/a/home/devices`);
    if (size === "narrow") {
      await page.getByRole("button", { name: "Menu" }).click();
      await look(page, "menu");
    } else {
      await page.getByRole("button", { name: "Ada Lovelace" }).click();
      await look(page, "person");
    }
  }
  await page.context().close();
  return { problems };
};

// The page Access in a real browser: two admins, with script and without.

function expect(holds, what) {
  if (!holds) throw new Error(what);
}

export default async ({ browser, args, picture }) => {
  const errors = [];
  const admin = async (options = {}) => {
    const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1360, height: 900 }, ...options });
    const page = await context.newPage();
    page.on("pageerror", (error) => errors.push(`${error}`));
    page.on("dialog", (dialog) => dialog.accept());
    return page;
  };
  const ada = await admin();
  await ada.goto(args.setUp);
  await ada.getByLabel("Your name").fill("Ada Lovelace");
  await ada.getByLabel("E-mail").fill("ada@example.org");
  await ada.getByLabel("Password").fill(args.password);
  await ada.getByRole("button", { name: "Create and sign in" }).click();
  await ada.waitForURL("**/devices");
  const storageState = await ada.context().storageState();

  // By keyboard: the first rule is opened, narrowed and applied.
  await ada.goto(`${args.url}/a/home/access`);
  await ada.getByRole("button", { name: "Edit rule everybody reaches everything" }).focus();
  await ada.keyboard.press("Enter");
  const name = ada.getByLabel("Name (optional)");
  await name.waitFor();
  expect(await name.evaluate((it) => it === document.activeElement), "the first field has the focus");
  await ada.getByLabel("Ports", { exact: true }).fill("tcp:22, http");
  await ada.keyboard.press("Enter");
  await ada.getByText("'http': ports are written", { exact: false }).waitFor();
  await ada.screenshot({ path: picture("portal-access-rule-wrong"), fullPage: true });
  await ada.getByLabel("Ports", { exact: true }).fill("tcp:22");
  await ada.getByLabel("Add to: Ports").selectOption("icmp");
  await ada.waitForFunction(() => document.querySelector("#ports")?.value === "tcp:22, icmp");
  await ada.getByRole("button", { name: "Apply" }).click();
  await ada.getByText("2 pairs of devices lose access, none gains it.").waitFor();
  await ada.screenshot({ path: picture("portal-access-changed"), fullPage: true });

  // The text says the same; it is checked while one types, errors at their lines.
  await ada.getByRole("radio", { name: "Text" }).check();
  const text = ada.getByRole("textbox", { name: /policy's text|Yours, not saved/ });
  const value = await text.inputValue();
  expect(value.includes('ports = ["tcp:22", "icmp"]'), "the form has changed the text");
  await text.fill(`${value}\n[[rules]]\nfrom = ["tag:Größe"]\nto = ["own"]\n`);
  await ada.getByText("1 error: it can't be saved.").waitFor();
  const line = value.split("\n").length + 2;
  await ada.locator(".gutter .bad", { hasText: `${line}` }).waitFor();
  await ada.getByRole("button", { name: `Go to line ${line}` }).click();
  expect(await text.evaluate((it) => it.value.slice(it.selectionStart).startsWith('"tag:Größe"')), "the cursor is at the error");
  await ada.screenshot({ path: picture("portal-access-text-wrong"), fullPage: true });
  await text.fill(value);
  await ada.getByText("2 pairs of devices lose access, none gains it.").waitFor();
  expect((await ada.locator(".gutter .bad").count()) === 0, "no line is marked any more");

  // Somebody without script is quicker: what he does is shown before it is saved.
  const ben = await admin({ javaScriptEnabled: false, storageState });
  await ben.goto(`${args.url}/a/home/access?view=text`);
  await ben.getByRole("textbox", { name: "The policy's text" }).fill("# ben's\n[[rules]]\nfrom = '*'\nto = 'own'\n");
  await ben.getByRole("button", { name: "Save" }).click();
  await ben.getByText("Look at what this changes", { exact: false }).waitFor();
  await ben.getByRole("button", { name: "Save" }).click();
  await ben.getByText("Version 1 is in force", { exact: false }).first().waitFor();

  // The second one sees both, and nothing of his own is lost.
  await ada.locator("#in-force", { hasText: "Version 1 is in force" }).waitFor();
  await ada.getByRole("button", { name: "Save" }).click();
  await ada.getByText("Somebody else was quicker").waitFor();
  expect((await text.inputValue()) === value.replace(/^\n/, ""), "the text is kept");
  await ada.locator("ins", { hasText: "# ben's" }).waitFor();
  await ada.screenshot({ path: picture("portal-access-conflict"), fullPage: true });
  await ada.getByRole("button", { name: "Save" }).click();
  await ada.getByText("Version 2 is in force", { exact: false }).first().waitFor();
  expect(ada.url().includes("view=text"), "the view stays");
  return errors;
};

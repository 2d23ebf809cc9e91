//! What the actors obey, and the deliberate breaks of it.

/// A rule that is broken on purpose, to see that the model notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Break {
    /// A create reports success as soon as its record is stored.
    NoConfirmation,
    /// A writer publishes its record or state while lists may not show its session yet.
    SessionUnsettled,
    /// A create lists intents at once.
    CreateSkipsSettle,
    /// A create lists packs, then intents.
    CreateListsPacksFirst,
    /// A create takes a forwarding without asking whether an intent names it or its target.
    CreateTrustsForwardings,
    /// A create claims chunks in condemned packs.
    ClaimCondemned,
    /// A create publishes its record before its packs.
    RecordBeforePacks,
    /// A create ignores that its claims are gone where any blob of their pack was forwarded.
    AnyForwardingOfThePack,
    /// A create claims chunks of packs that no index names without looking for living sessions.
    OrphansWithoutSessions,
    /// The same, without the settle time before it lists sessions.
    OrphansUnsettled,
    /// A compactor lists archives and states before it publishes its intent, and not again.
    ListBeforeIntent,
    /// A compactor does not wait after its intent.
    SweepSkipsSettle,
    /// A compactor does not see archives of running sessions.
    IgnoreUnconfirmed,
    /// A compactor lists packs and forwardings, then intents.
    SweepListsPacksFirst,
    /// A compactor does not ask whether others will delete what it relies on.
    IgnoreOthers,
    /// It asks only for intents.
    IgnoreOthersCondemned,
    /// A compactor spares nothing where any blob of the pack was forwarded.
    SweepAnyForwarding,
    /// The target of a forwarding is no reference.
    TargetsAreNoReferences,
    /// Forwardings are deleted as first decided.
    ForwardingsUnchecked,
    /// Records are deleted as first decided.
    RecordsUnchecked,
    /// The intent goes before the packs.
    IntentRemovedEarly,
    /// The intent goes right after the packs.
    IntentRemovedUnsettled,
    /// Packs are condemned after their survivors were copied.
    CondemnAfterCopy,
    /// Packs are not condemned at all.
    NoCondemning,
    /// Survivors are not copied where another pack holds them too.
    SurvivorsElsewhere,
    /// Blobs are copied without opening them, one copy for all packs that held one.
    CopyUnopened,
    /// Chains of forwardings may grow beyond what readers follow.
    ChainsUnchecked,
    /// Intents of others are removed although what they name is there.
    OthersIntentsRemoved,
    /// Intents of others are removed as soon as all that they name is gone, before lists show so.
    LeftoversUnsettled,
    /// States go before their record.
    StatesFirst,
    /// A repair moves a pack away although what is good in it has no other place.
    RepairSparesNothing,
    /// An undelete reports success without a confirmation.
    UndeleteUnconfirmed,
    /// An undelete does not care for archives that intents name.
    UndeleteIgnoresIntents,
    /// An undelete does not look whether the record is still there.
    UndeleteIgnoresRecord,
    /// An undelete that fails deletes the archive anew.
    UndeleteDeletesAnew,
    /// Archives of the dead are confirmed unseen.
    ConfirmUnseen,
    /// Archives of the dead are confirmed without asking for intents.
    ConfirmIgnoresIntents,
    /// What a dead session restored is confirmed although an intent names the archive, or it is gone.
    ConfirmIgnoresNames,
    /// Only one of the archives of a dead session is looked at.
    ConfirmOne,
    /// Packs of running creates are put into the index.
    ReindexUnseen,
    /// A remover of slots does not wait.
    KeySkipsSettle,
    /// It lists slots, then markers.
    KeySlotsFirst,
    /// It removes its marker before its slot.
    KeyMarkerRemovedEarly,
    /// It removes its marker right after its slot.
    KeyMarkerRemovedUnsettled,
    /// It publishes no marker.
    KeyUnmarked,
}

/// How the world works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Whether lists lag.
    pub(crate) lag: bool,
    /// How many forwardings a reader follows: 16 in the program, fewer where a model would not get there.
    pub(crate) steps: usize,
    /// Whether an actor may die, at any step.
    pub(crate) crashes: bool,
    /// Whether anybody looks at sessions; otherwise they are left out, and a pack comes with its index segment.
    pub(crate) sessions: bool,
    pub(crate) broken: Option<Break>,
}

impl Rules {
    pub(crate) const EXACT: Self =
        Self { lag: false, steps: 16, crashes: false, sessions: false, broken: None };
    pub(crate) const LAGGING: Self = Self { lag: true, ..Self::EXACT };

    pub(crate) fn breaks(&self, broken: Break) -> bool {
        self.broken == Some(broken)
    }

    pub(crate) fn breaking(self, broken: Break) -> Self {
        Self { broken: Some(broken), ..self }
    }
}

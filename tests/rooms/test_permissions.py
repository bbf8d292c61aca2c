"""Who may do what (protocol reference, sections 2.2 and 5.2)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from triosfu.rooms.permissions import Permission, SubscriptionRules

sources = st.sampled_from(models.TrackSource.values())
permissions = st.builds(
    Permission,
    can_subscribe=st.booleans(),
    can_publish=st.booleans(),
    can_publish_data=st.booleans(),
    can_publish_sources=st.lists(sources).map(tuple),
    can_update_metadata=st.booleans(),
    can_subscribe_metrics=st.booleans(),
    can_manage_agent_session=st.booleans(),
    hidden=st.booleans(),
    recorder=st.booleans(),
    agent=st.booleans(),
)


@given(permissions)
def test_permissions_survive_the_wire(permission: Permission) -> None:
    assert Permission.parse(permission.serialize()) == permission


@given(permissions, sources)
def test_sources_restrict_and_never_grant(permission: Permission, source: models.TrackSource) -> None:
    listed = not permission.can_publish_sources or source in permission.can_publish_sources
    assert permission.may_publish(source) == (permission.can_publish and listed)


SIDS = {"PA_bob": "bob"}


def rules(*entries: rtc.TrackPermission, everybody: bool = False) -> SubscriptionRules:
    made = SubscriptionRules()
    request = rtc.SubscriptionPermission(all_participants=everybody, track_permissions=entries)
    assert made.replace(request, SIDS.get)
    return made


def test_everybody_may_until_something_is_said() -> None:
    assert SubscriptionRules().allows("bob", "TR_1", recorder=False)
    assert not rules().allows("bob", "TR_1", recorder=False)
    assert rules().allows("rec", "TR_1", recorder=True)
    assert rules(everybody=True).allows("bob", "TR_1", recorder=False)


def test_some_tracks_or_all_by_identity_or_sid() -> None:
    some = rules(
        rtc.TrackPermission(participant_sid="PA_bob", track_sids=["TR_1"]),
        rtc.TrackPermission(participant_identity="carol", all_tracks=True),
        rtc.TrackPermission(participant_sid="PA_gone", all_tracks=True),
    )
    assert some.allows("bob", "TR_1", recorder=False)
    assert not some.allows("bob", "TR_2", recorder=False)
    assert some.allows("carol", "TR_2", recorder=False)
    assert not some.allows("dave", "TR_1", recorder=False)


def test_an_entry_for_nobody_rejects_the_whole_update() -> None:
    kept = rules(rtc.TrackPermission(participant_identity="carol", all_tracks=True))
    request = rtc.SubscriptionPermission(track_permissions=[rtc.TrackPermission(all_tracks=True)])
    assert not kept.replace(request, SIDS.get)
    assert kept.allows("carol", "TR_1", recorder=False)

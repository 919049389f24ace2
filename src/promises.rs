//! What Windward promises, and the test that would fail if it did not hold.
//!
//! A promise without a test is an intention. Every line names the functions that show it (`tests/it` unless a module is named); a
//! test of its own reads this page and fails when one of them is no longer there.
//!
//! # A request is forwarded only if it can be read in one way
//!
//! | promise | shown by |
//! |---|---|
//! | HTTP/1.1 that is ambiguous is refused with a reason, `Connection: close` and an end of the connection within two seconds, and nothing of it reaches a backend; the unusual but valid passes | `every_case_as_it_was_sent`, `every_case_in_pieces_that_end_within_line_ends`, `short_cases_byte_by_byte` |
//! | What passes is, to hyper, exactly one message; and what is read without hyper is the request that hyper would have seen | fuzz body `framing` |
//! | A refusal waits for the answers before it, and a body that breaks is the client's fault | `a_refusal_waits_for_the_response_before_it`, `a_broken_upload_ends_the_attempt_and_is_the_clients_fault` |
//! | HTTP/2 that is malformed is refused and reaches no backend, and what is only unusual is answered: all that h2spec sends, and more. One thing is forbidden and not refused: a pseudo-header in trailers, which goes no further | `what_is_malformed_is_refused_and_reaches_no_backend`, `one_thing_alone_is_answered_although_it_is_forbidden`, `settings_are_acknowledged_each_time`, `a_stream_gets_what_its_window_is_for_and_not_a_byte_more`, `a_setting_moves_the_windows_of_streams_that_are_open_also_below_zero`, `one_stream_more_than_allowed_is_refused_and_the_others_go_on` |
//! | A response of HTTP/2 goes out as its client's windows allow, also where a setting makes one of them negative | `a_stream_gets_what_its_window_is_for_and_not_a_byte_more`, `a_setting_moves_the_windows_of_streams_that_are_open_also_below_zero` |
//! | A flood of frames ends its connection while others are served, within a second, and what many clients do is no flood | `a_flood_is_ended_and_others_are_served_meanwhile`, `others_wait_for_little_of_a_flood`, `what_many_clients_do_is_no_flood` |
//! | A backend of HTTP/2 that floods its connection is left at once | `a_flood_from_an_http2_backend_ends_its_connection` |
//! | What is about one connection ends with it, in both directions and versions of HTTP; no trailer becomes a field, and an upload of a known length still says it | `what_a_client_says_of_its_connection_ends_here`, `what_a_backend_says_of_its_connection_ends_here_and_no_trailer_becomes_a_field`, `it_ends_here_for_a_client_of_http2_as_well` |
//! | A request that comes back to where it has been is refused at once | `a_request_that_comes_back_is_refused_at_once`, `a_request_that_comes_back_is_known` |
//! | No field of a request names a destination, and redirects are not followed | `no_field_of_a_request_names_a_destination`, `a_redirect_is_the_clients_to_follow` |
//!
//! # A response is passed on only if it is whole, or is seen to be cut
//!
//! | promise | shown by |
//! |---|---|
//! | A backend that answers nonsense gives 502, or a cut once its head is out; nothing is sent a second time, and no byte gets into another exchange | `every_answer_at_once`, `short_answers_byte_by_byte`, `every_answer_to_an_upload`, `an_http2_peer_that_misbehaves_is_never_taken_for_whole` |
//! | A client of HTTP/1.0, to whom the end of the connection is the end of the body, sees a reset where it was cut, and so does one of HTTP/2, whose other streams go on | `a_stream_that_breaks_is_a_reset_to_who_would_take_an_end_for_the_end`, `a_stream_that_breaks_is_a_reset_over_http2_and_the_connection_goes_on` |
//! | The bytes of an event stream pass unchanged, and each before the next one exists | `an_event_is_passed_on_before_the_next_exists`, `a_client_that_asked_for_usage_gets_the_bytes_as_they_came` |
//! | An answer of 200 that is an error is passed on as it came, and counts as none | `an_answer_that_is_an_error_is_passed_on_whole_and_is_no_answer`, `a_stream_that_ends_with_an_error_is_passed_on_whole_and_is_no_answer`, `what_breaks_within_a_stream_keeps_what_was_said_of_its_prompt` |
//! | What is translated says all that was said, or is refused by the name of what cannot be; a stream that is cut anywhere is never a whole one, and where the network cut it makes no difference | `what_has_no_counterpart_is_refused_by_its_name`, `what_only_anthropics_service_does_is_refused_by_its_name`, `a_stream_that_is_cut_anywhere_is_never_a_whole_one`, `where_it_is_cut_makes_no_difference`, `a_stream_that_breaks_is_a_broken_one_here_too`, fuzz body `translation` |
//! | A member that is there twice in an object of a request is refused where the translation looks at that object; what goes on as it was written (a schema, the arguments of a call) is its reader's to judge | `a_name_that_is_there_twice_is_refused_however_it_is_written`, `what_has_no_counterpart_is_refused_by_its_name`, `what_only_anthropics_service_does_is_refused_by_its_name` |
//! | Whoever speaks the client's dialect gets the client's own bytes, whatever was translated for others | `who_speaks_the_clients_dialect_gets_its_own_bytes_whoever_was_asked_before` |
//! | A backend that cannot prove who it is gets no request | `who_cannot_prove_who_he_is_gets_no_request`, `who_speaks_no_tls_that_is_safe_gets_no_request` |
//!
//! # An application notices nothing but its base URL
//!
//! | promise | shown by |
//! |---|---|
//! | The official SDKs of OpenAI, Azure, Anthropic, AWS and Google, and LangChain, get the answers, streams and exceptions that they expect | `the_official_sdk_notices_nothing`, `openais_sdk_for_node_notices_nothing`, `azures_client_notices_nothing`, `langchain_notices_nothing`, `anthropics_sdk_notices_nothing`, `boto3_notices_nothing`, `awss_sdk_for_node_notices_nothing`, `awss_sdk_for_rust_notices_nothing`, `googles_sdk_notices_nothing`, `sdks_of_other_apis_notice_nothing_of_bedrock` |
//! | What a client did not ask for does not reach it, and a stream that says its usage as it goes has said it when it breaks | `a_stream_that_says_its_usage_as_it_goes_has_said_it_when_it_breaks`, `what_every_event_says_of_usage_goes_wherever_it_stands` |
//! | How much choice of a grid a model leaves is said as it is | `the_examples_say_how_much_choice_their_models_have`, `the_examples_explain_every_key` |
//!
//! # Work is done once, unless the policy says otherwise
//!
//! | promise | shown by |
//! |---|---|
//! | What was not refused is not sent again | `work_that_was_not_refused_is_never_done_twice`, `what_was_not_refused_is_sent_again_only_if_the_policy_says_so` |
//! | Nothing is sent again once a byte of an answer was passed on, by whatever policy, nor to more backends than it says | `nothing_is_sent_again_once_a_byte_of_an_answer_was_passed_on`, `no_more_are_asked_than_the_policy_says` |
//! | A connection that does not come about, TLS included, costs an attempt and no work | `a_connection_that_does_not_come_about_costs_an_attempt_and_no_work`, `a_backend_that_cannot_be_reached_is_passed_over` |
//! | A second attempt has the same bytes, and the credential of its own backend only | `a_second_attempt_has_the_same_bytes_and_its_own_credential` |
//! | A backend that refuses the gateway's credential is passed over, and its client is not told that the key is wrong | `a_backend_that_refuses_our_credential_is_passed_over_and_left_alone`, `a_client_is_never_told_that_the_gateways_credential_is_wrong_as_if_it_were_its_own` |
//! | A second backend is asked beside one that is late only if the policy says so, and within its share, grams, places and attempts | `nothing_is_hedged_unless_the_policy_says_so_and_its_limits_allow_it`, `hedges_stay_the_share_of_the_requests_that_the_policy_allows`, `whoever_is_hedged_with_fits` |
//! | Of two that were asked one answers; the other is broken off, is waste, and never praises its backend; that it was late is all that is learned of it | `a_backend_that_hangs_is_not_asked_first_for_ever`, `a_slow_backend_that_hangs_is_hedged_when_the_budget_is_over`, `the_second_answers_and_the_first_is_broken_off_and_booked_as_waste`, `the_first_may_still_win_and_then_the_second_is_broken_off` |
//! | A request that could only come too late is held, and refused, only where its policy says so | `a_request_that_could_only_come_too_late_is_shed_and_sent_nowhere`, `without_that_policy_it_is_sent_to_whoever_is_least_late` |
//! | A candidate is held against what is left of the latency budget, when it is decided and again when another has failed | `what_was_over_when_it_was_decided_is_no_part_of_the_budget_any_more`, `who_cannot_be_in_time_after_a_failure_is_passed_over_for_who_can` |
//! | A conversation goes on where its prompt is at hand, as far as that backend's own reports say so, and only under a policy that counts it; it moves when that is worth more than reading all of it again, and not where that would be too late | `a_conversation_that_is_named_goes_on_where_it_was`, `a_conversation_without_a_name_is_known_by_how_it_begins`, `where_nothing_is_kept_or_nobody_asks_they_take_turns`, `a_conversation_moves_when_that_is_worth_more_than_reading_all_of_it_again`, `a_conversation_stays_where_reading_all_of_it_again_would_be_too_late` |
//! | A client narrows its own request and nobody else's, and never widens it | `a_request_narrows_its_policy_by_header_and_the_record_says_so`, `where_nobody_may_serve_what_was_asked_nobody_is_asked` |
//! | No kilogram is paid for beyond the policy's price, and no request asks for more than its policy would pay | `no_kilogram_costs_more_than_its_price`, `a_policy_pays_for_carbon_what_it_says`, `a_request_cannot_ask_for_what_its_policy_would_not_pay` |
//! | Every word of a policy does what it says: each objective, each member of a budget and the share that has to keep it, the price of waiting, and what is done where nobody is in time | `each_objective_chooses_whom_it_says`, `in_turn_each_gets_as_many_and_by_weight_its_share`, `each_member_of_a_budget_counts`, `the_budget_of_a_token_keeps_a_backend_from_being_filled`, `the_more_answers_must_be_in_time_the_fewer_are_late`, `waiting_is_weighed_by_what_the_policy_says_it_is_worth`, `where_nobody_is_in_time_the_fastest_serves_or_nobody` |
//! | A shadow policy sends nothing, and says what would be if the route had it: with what the request asks for, under the policy that its key brings, and whether it would have been held or shed | `a_shadow_policy_is_decided_and_logged_and_sends_nothing`, `a_shadow_is_asked_for_what_the_request_itself_asks_for`, `a_shadow_of_the_route_does_not_stand_for_the_policy_that_a_key_brings`, `a_shadow_that_would_hold_or_shed_a_request_says_so` |
//! | A model whose quota is spent takes no other model with it, and a quota of files or batches takes none | `a_quota_is_that_of_one_model_and_a_backend_that_is_full_is_full_for_all`, `who_says_within_an_answer_that_it_is_full_is_left_alone_as_if_it_had_refused`, `a_call_that_is_not_decided_takes_capacity_away_only_where_the_backend_takes_nothing` |
//! | What lives in one backend is asked for there, by every way of naming it, after a reload and a restart, and nowhere else | `what_an_answer_hands_out_is_asked_for_where_it_is`, `a_thing_stays_where_it_is_after_a_reload_and_after_a_restart`, `what_is_not_to_be_had_where_it_is_is_asked_for_nowhere_else`, `what_is_not_stored_is_not_remembered` |
//! | No client drives everybody's things out of memory, and no id is found where it never was | `a_client_drives_others_out_of_half_of_the_places_at_most_and_answers_drive_out_no_thing`, `many_may_read_and_write_it_and_no_id_is_ever_found_where_it_never_was` |
//! | A client of Azure's classic API or of OpenAI's is served by a backend of either, by its own name for the model | `a_client_of_either_api_is_served_by_a_backend_of_either`, `a_fall_back_goes_from_one_of_its_apis_to_the_other` |
//! | Retries stay a share of the requests, whatever the backends do | `retries_never_double_an_outage` |
//! | No more than half of the candidates are ejected, and never the last | `no_more_than_half_are_ejected_and_the_last_one_never` |
//! | A client that leaves ends its backend's work in every phase within a second, is booked as waste, and costs the backend no health | `a_connection_that_is_closed_or_reset_ends_the_exchange_in_every_phase`, `a_stream_that_is_reset_ends_the_exchange_in_every_phase`, `a_connection_of_streams_that_is_closed_or_reset_ends_the_exchange_in_every_phase`, `a_hundred_that_leave_at_once_leave_nothing_behind`, `a_client_that_leaves_is_noticed_however_much_it_had_said_before`, `a_client_that_breaks_off_an_upload_which_nobody_takes_is_noticed`, `so_is_one_that_ends_it_in_good_order_when_all_of_it_has_come`, `a_client_that_leaves_through_tls_is_noticed_with_a_goodbye_and_without`, `a_client_that_leaves_a_stream_which_is_translated_ends_it` |
//! | Nothing stays counted of a crowd that comes and goes while its requests are tried, tried again and answered | `a_crowd_that_comes_and_goes_leaves_nothing_counted` |
//! | A backend that never answers is let go of in its time, and nobody else is asked for the same work | `a_backend_that_never_answers_is_given_up`, `what_was_not_refused_is_sent_again_only_if_the_policy_says_so` |
//! | The cleanest backend being down holds nobody up, and it is used again when it is back | `the_cleanest_backend_being_down_holds_nobody_up_and_it_comes_back` |
//!
//! # Everything is bounded
//!
//! | promise | shown by |
//! |---|---|
//! | A body over the limit is refused before it is read, or where that was not declared ends with what is too much, also one that streams through; a head by its bytes and by its fields; trailers by their fields, in either version of HTTP | `a_body_over_the_limit_is_refused_before_it_is_read`, `an_upload_over_its_limit_is_refused_before_it_is_read_or_ends_with_what_is_too_much`, `a_bad_head_is_answered_and_counted`, `a_head_has_as_many_fields_as_the_configuration_says`, `a_head_has_so_many_fields_and_a_trailer_section_the_usual_number`, `trailers_of_more_fields_than_may_be_end_it_as_broken` |
//! | There is no queue: who finds no place, for a connection, a request, its bytes or a stream, is told so at once | `one_connection_too_many_is_closed_and_counted`, `who_finds_no_place_is_told_at_once_when_to_come_again`, `one_stream_more_than_allowed_is_refused_and_the_others_go_on` |
//! | An open stream takes no more than 15 KiB | `an_open_stream_takes_little_memory` |
//! | A request that its head alone condemns is refused while its body is still on its way | `a_refusal_does_not_wait_for_a_body_that_is_late`, `what_a_head_is_refused_for_is_known_without_its_body_and_asking_leaves_no_trace` |
//! | An upload that stalls ends by its own limit with 408, its attempt with it, and the backend is not blamed; one that takes nothing more is | `an_upload_that_stalls_ends_by_its_own_limit_and_is_the_clients_fault`, `a_call_whose_body_stalls_reaches_nobody`, `a_backend_that_answers_an_upload_which_stalls_is_not_the_one_who_is_idle`, `a_backend_that_takes_no_more_of_an_upload_is_blamed_for_it` |
//! | An exchange ends with its time, also while both sides always have something or the client takes next to nothing, and so does a tunnel that carries nothing | `a_stream_without_an_end_ends_with_the_time_of_its_exchange`, `an_upload_without_an_end_ends_with_the_time_of_its_exchange`, `a_client_that_does_not_read_has_the_time_of_its_exchange_and_no_more`, `an_answer_has_its_time_however_little_of_it_is_read_at_once`, `a_stream_has_the_time_of_its_exchange_however_its_client_reads`, `a_tunnel_that_carries_nothing_is_given_up` |
//! | Clients that say nothing, or send a head or a body in drips, are gone when their limits are reached, and three hundred of them hold nobody up | `three_hundred_slow_clients_are_gone_within_their_limits_and_others_are_served_meanwhile` |
//! | A client that does not read costs little, whatever the backend sends, and so does a backend that takes nothing of an upload | `a_client_of_http1_that_does_not_read_costs_little`, `a_client_of_http2_that_does_not_read_costs_little`, `a_backend_that_takes_nothing_of_an_upload_costs_little` |
//! | A client that does not read makes no backend look slow | `a_client_that_does_not_read_for_a_while_makes_no_backend_look_slow` |
//! | No flood makes the program hold 32 MiB more, and neither do two hundred streams of which a client takes nothing | `no_flood_makes_the_program_hold_much_and_others_are_served_meanwhile` |
//! | Without a file descriptor left for clients it waits instead of turning round, answers 503 when there is none for a backend, blames none, still answers on the admin address, and goes on when there are some | `without_descriptors_it_waits_and_blames_nobody_and_then_goes_on`, `clients_are_left_none_before_backends_and_those_none_before_ourselves` |
//! | A name is looked up once for everybody who wants it, and its last good addresses are used while no lookup succeeds, not for long where no certificate proves them | `who_wants_a_name_at_once_waits_for_one_lookup_and_its_answer_counts_for_a_while`, `the_last_good_addresses_count_while_no_lookup_succeeds_and_not_for_ever`, `a_lookup_that_hangs_is_waited_for_only_by_who_has_nothing_else`, `addresses_that_no_certificate_proves_are_given_up_soon`, `who_waits_for_one_lookup_takes_turns_as_well` |
//! | An answer that has to be held until it can be translated takes room that there is for it, or is cut | `an_answer_that_there_is_no_room_to_hold_is_cut_and_blames_nobody` |
//! | A decision among sixteen candidates allocates nothing, and one among more nothing once its worker has made one | `a_decision_among_sixteen_allocates_nothing`, `nor_does_one_among_more_once_its_worker_has_made_one`, `what_is_estimated_and_decided_for_a_request_allocates_nothing` |
//!
//! # What it is built from is known
//!
//! | promise | shown by |
//! |---|---|
//! | All of it comes from one registry, cargo's default, with a checksum, and none of it is known to be open to what its neighbours were open to | `all_of_it_comes_from_one_registry_with_a_checksum`, `what_is_known_to_be_open_is_not_among_it` |
//!
//! # Secrets stay where they belong
//!
//! | promise | shown by |
//! |---|---|
//! | No key, prompt, completion or query secret is in any log, metric, admin page or error, at the most talkative level, in whatever form, of any API or credential | `at_its_most_talkative_it_tells_no_secret`, `nor_does_it_of_any_api_or_of_what_it_asks_for_itself`, `a_slip_beside_a_secret_does_not_show_it` |
//! | A backend sees its own credential and none of the client's | `a_backend_is_sent_its_own_credential_or_none`, `a_key_comes_in_by_every_way_of_an_official_client_and_goes_nowhere` |
//! | A field that holds one backend's credential passes from a client to no other | `a_field_that_holds_one_backends_credential_passes_to_no_backend`, `trailers_of_an_upload_bring_no_credential` |
//! | A token is renewed beside the traffic, the last good one stays, and who has none is asked only where nobody else can be | `a_token_comes_from_a_program_or_a_file_and_is_renewed_beside_the_traffic`, `a_machines_metadata_gives_a_token_of_googles`, `a_backend_without_a_token_is_asked_last_and_says_why`, `who_could_not_be_asked_does_not_hide_who_failed`, `the_last_good_one_is_kept_until_its_end`, `a_program_has_its_time` |
//! | A recorded stream of every dialect reaches its client byte for byte, and is booked with what it said of its tokens | `every_recorded_stream_arrives_as_it_was_sent_and_is_booked_as_it_says` |
//! | What cannot be said in a backend's dialect is refused by its name or is the backend's to judge, and never dropped | `what_cannot_be_said_there_is_refused_before_anything_is_sent`, `what_has_no_counterpart_is_refused_by_its_name`, `what_messages_may_learn_to_say_is_bedrocks_to_judge_and_never_dropped` |
//! | A model is asked for below the path and by the id that the catalogue has for it, and rows of one's own come first | `a_model_is_asked_for_below_the_path_that_the_catalogue_has_for_it`, `own_rows_come_first`, `an_id_depends_on_the_endpoint_and_the_region` |
//! | Every official SDK makes the right exception of the gateway's own errors, and comes again when it is told | `every_sdk_understands_the_gateways_own_errors_and_comes_again_when_it_is_told` |
//! | Each attempt at AWS is signed for its own region, and nothing of a client's signature goes on | `each_attempt_is_signed_for_its_own_region`, `nothing_of_a_clients_own_signature_goes_on`, `a_signature_is_the_one_that_the_documented_steps_give` |
//! | Emissions are restated by where CloudTrail says that a request ran, attempt by attempt, and a baseline that is the same backend with them | `what_ran_elsewhere_is_restated`, `a_day_of_trails_and_logs_is_joined_and_what_is_wrong_with_it_is_named`, `every_attempt_is_restated_by_where_it_ran`, `what_the_trail_does_not_know_keeps_its_figure_and_a_baseline_runs_where_the_same_backend_did`, `a_trail_is_read_event_by_event` |
//! | Who says that nothing is left of a model is not asked for it until there is some | `who_says_that_nothing_is_left_of_a_model_is_not_asked_for_it`, `an_empty_bucket_fills_in_its_time`, `what_is_on_its_way_counts_against_what_is_left`, `prompts_and_answers_may_have_buckets_of_their_own` |
//! | What may run in several places is judged by the dirtiest of them, and who may run anywhere never wins as green | `several_places_are_judged_by_the_dirtiest_and_anywhere_never_wins`, `the_unknown_never_wins_over_a_known_one_in_time` |
//! | What an answer says of where it ran outranks what its backend is declared to be, in the record and its grams | `azures_word_on_the_region_counts_for_the_grams`, `anthropics_word_on_the_geography_counts_for_the_grams` |
//! | AWS keys come from where AWS's own tools look, and none of them is in a log | `a_machines_role_signs`, `a_containers_role_signs`, `a_pods_identity_signs`, `keys_of_the_environment_and_of_a_file_sign`, `a_web_identity_signs`, `a_role_is_taken_on_by_configuration_and_by_profile`, `a_program_that_a_profile_names_gives_keys`, `keys_that_end_are_used_to_their_end_and_replaced_where_there_are_others`, `keys_sign_until_their_end` |
//! | A request that is signed with a key instead of showing it is held to its signature before anybody is contacted | `a_client_may_sign_with_its_key_instead_of_showing_it` |
//! | Bodies of requests that only claim to be signed take no place of those whose key was shown | `who_only_claims_to_have_signed_takes_no_place_of_those_who_show_a_key` |
//! | What cannot be signed as it is sent is neither signed nor believed | `a_query_that_is_no_text_is_neither_signed_nor_believed` |
//! | A credential in a query stays here, and every other parameter is as it was | `a_credential_in_a_query_passes_only_where_it_is_asked_for`, `whatever_is_kept_stood_there_in_that_order` |
//! | Who has no right key is turned away, and nobody is contacted | `who_has_no_key_is_turned_away_and_nobody_hears_of_it` |
//! | How long it takes to compare a key, or a signature, says nothing of how much of it was right, nor which key it was. That is by construction, and no test measures it: every key is compared, digest with digest, by a function that looks at every byte ([`key`](crate::key)). What is shown is that every bit counts | `one_bit_makes_another_digest_wherever_it_stands`, `a_key_is_found_by_its_text_alone` |
//! | A backend learns who the client is only if it is to | `who_the_client_is_reaches_only_a_backend_that_is_to_know_it` |
//!
//! # Replicas cannot make each other worse than alone
//!
//! | promise | shown by |
//! |---|---|
//! | A backend's limit holds for all replicas together | `a_backends_limit_holds_for_all_replicas_together` |
//! | Messages that are forged, repeated, recorded or absurd change nothing that lasts | `forged_repeated_and_recorded_messages_change_nothing`, `a_repeated_message_says_nothing_and_nor_does_a_recording`, `absurd_numbers_end_at_what_can_be`, `whatever_comes_nothing_breaks_and_nothing_lasts` |
//! | Of what is lost, late or repeated each word counts once, and the last one stands | `whatever_is_lost_late_or_repeated_the_last_word_stands` |
//! | What one says of a backend is believed of the backend of that name at that place, and of no other; of another site first tokens are not | `the_same_name_at_another_place_is_another_backend`, `of_another_site_only_what_is_the_same_from_there_is_learned` |
//! | Clocks that differ make no difference | `clocks_that_differ_make_no_difference`, `replicas_of_one_name_share_a_limit_however_wrong_their_clocks_are` |
//! | One that dies takes along what it had, and one that comes back, or begins anew, is heard again and counts once | `one_that_dies_takes_along_what_it_had_and_no_more`, `one_that_was_cut_off_is_heard_again_and_nothing_counts_twice`, `a_replica_that_begins_anew_is_heard_again` |
//! | A replica that is silent is forgotten, and one that ends is not waited for | `all_silent_at_once_may_still_be_sending_for_a_while_and_no_longer`, `one_that_ends_and_one_that_is_no_longer_listed_are_not_waited_for` |
//!
//! # What was learned outlives the process
//!
//! | promise | shown by |
//! |---|---|
//! | It is known again after a restart, the older the less, and a file that is not ours is left as it is | `what_was_learned_is_known_after_a_restart_and_a_strange_file_is_left_as_it_is`, `the_older_the_nearer_to_what_was_declared_and_after_a_week_nothing` |
//! | Whatever the file holds, only numbers come out of it | `whatever_a_file_holds_only_numbers_come_out`, `what_is_not_ours_or_not_sound_or_of_something_else_is_not_taken` |
//!
//! # The books add up
//!
//! | promise | shown by |
//! |---|---|
//! | Every gram of a line follows from the line and the shipped table | `an_answer_after_a_failover_adds_up`, `failures_of_every_kind_add_up_and_save_nothing` |
//! | What a cache spares is no saving, and what was lost by leaving one is a loss | `a_cache_is_no_saving_and_leaving_one_is_a_loss` |
//! | A line has every number that its choice was made by, also of a request that was refused | `the_line_has_every_number_that_the_choice_was_made_by`, `the_line_says_what_was_ahead_and_how_large_a_share_was`, `a_request_that_could_only_come_too_late_is_shed_and_sent_nowhere` |
//! | Every dollar of a line follows from its tokens and its own prices | `dollars_are_booked_with_what_the_baseline_would_have_cost` |
//! | The log says what the backends served, whatever fails or is cut, and nothing stays under way | `the_log_says_what_the_fleet_served_and_nothing_stays_under_way` |
//! | Nothing is lost between baseline, actual, waste and saved | `grams_are_conserved`, `sums_of_records_are_conserved` |
//! | A line is written as its reader reads it, every field of it | `every_field_is_written_as_serde_json_writes_it_and_left_out_where_it_does` |
//! | A full disk or a vanished folder stops no request, and is counted | `a_full_disk_stops_no_request_and_is_counted`, `a_folder_that_vanished_costs_no_line_and_is_found_again` |
//! | What is promised of a decision, and of what counts of the readings, holds whatever sources, backends and files do, and a failure of that can be looked at twice | `what_is_promised_of_a_decision_holds_whatever_happens`, `a_seed_is_played_alike_each_time_and_another_otherwise` |
//!
//! # Carbon data and configuration cannot hurt a request
//!
//! | promise | shown by |
//! |---|---|
//! | A feed that lies, stalls or dies changes no request; its last good value stays for its time, then the next source speaks | `the_last_good_value_stays`, `the_next_source_speaks_for_a_feed_that_never_did`, `a_value_past_its_age_limit_gives_way_to_the_next_source` |
//! | A feed is asked at its own pace | `a_feed_is_asked_at_its_pace_and_not_by_requests` |
//! | A bad file changes nothing and is said until it is mended; a stream survives the removal of its backend | `a_bad_file_changes_nothing_and_is_said_until_it_is_mended`, `a_stream_survives_the_removal_of_its_backend` |
//! | Reloads under load, good and bad ones, fail and delay no request and cut no stream | `thirty_reloads_and_nine_bad_files_fail_no_request_and_cut_no_stream` |
//! | A file that is larger than it looks is refused in little memory, and says what to do about it | `what_is_too_much_is_refused_in_little_memory_and_says_how_to_mend_it`, `bombs_go_off_harmlessly` |
//! | A drain lets all bodies end and loses no line, also with no descriptor left for clients | `a_drain_lets_streams_end_and_loses_no_line`, `a_signal_lets_all_bodies_end_and_no_line_is_lost`, `what_streams_over_http2_ends_whole_and_so_does_what_is_uploaded`, `it_does_so_as_well_without_a_descriptor_left_for_clients` |
//! | Who was half through a head when the server stops is answered, and told that the connection ends | `half_a_head_is_waited_for_when_the_server_stops` |
